"""Downloads from a real server on this machine: once, and each file whole or not at all."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from torchvision import datasets

from src.data.cifar import CIFAR10
from src.data.mnist import MNIST
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.download import Archive, fetch
from tests import make_cifar, make_mnist
from tests.file_server import Server


@pytest.fixture
def mnist(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MNIST:
    """MNIST in little on the server, and nothing of it in data/ yet."""
    made = tmp_path / "made"
    make_mnist.write(made, 90, 30)
    server.files |= {f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in made.iterdir()}
    names = [name for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(
        datasets.MNIST, "resources", [(name, md5(server.files[name])) for name in names]
    )
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
    return MNIST(data_dir=str(tmp_path / "data"))


@pytest.fixture
def cifar(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CIFAR10:
    """CIFAR-10 in little on the server, and nothing of it in data/ yet."""
    for attribute, value in make_cifar.write(tmp_path / "made", datasets.CIFAR10, 100, 20).items():
        monkeypatch.setattr(datasets.CIFAR10, attribute, value)
    serve_cifar(server, tmp_path / "made", monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url + datasets.CIFAR10.filename)
    return CIFAR10(data_dir=str(tmp_path / "data"))


def serve_cifar(
    server: Server,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    *more: tarfile.TarInfo,
    without: str = "",
) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted(made.rglob("*")):
            if path.name != without:
                tar.add(path, str(path.relative_to(made)), recursive=False)
        for member in more:
            tar.addfile(member, io.BytesIO(b"evil"[: member.size]))
    server.files[datasets.CIFAR10.filename] = packed.getvalue()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(packed.getvalue()))
    return packed.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def refused(data: MNIST | CIFAR10) -> str:
    """The one line that `prepare_data` ends with; no temporary file is left."""
    with pytest.raises(InputError) as caught:
        data.prepare_data()
    assert not (data.folder / ".kindling-download").exists()
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def test_download_once(mnist: MNIST, cifar: CIFAR10, server: Server) -> None:
    for _ in range(2):
        mnist.prepare_data()
        cifar.prepare_data()
        assert server.downloads == [name for name, _ in datasets.MNIST.resources] + [
            "cifar-10-python.tar.gz"
        ]
    mnist.setup()
    assert {stage: len(index) for stage, index in mnist.indices.items()} == {
        "train": 74,
        "val": 16,
        "test": 30,
    }
    cifar.setup()
    assert cifar.samples.x.shape == (120, 3, 32, 32)
    assert sorted(
        path.name for path in mnist.folder.iterdir() if not path.name.startswith(".")
    ) == sorted(name.removesuffix(".gz") for name in server.files if name.endswith("ubyte.gz"))


def test_download_of_missing_files_only(mnist: MNIST, server: Server) -> None:
    mnist.prepare_data()
    (mnist.folder / "t10k-labels-idx1-ubyte").unlink()
    server.downloads.clear()
    mnist.prepare_data()
    assert server.downloads == ["t10k-labels-idx1-ubyte.gz"]


def test_second_mirror(mnist: MNIST, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url + "gone/", server.url])
    mnist.prepare_data()
    mnist.setup()


def test_wrong_checksum(mnist: MNIST, cifar: CIFAR10, server: Server) -> None:
    name = "train-images-idx3-ubyte.gz"
    server.files[name] = b"another"
    assert refused(mnist) == (
        f"{server.url}{name}: the 7 bytes received are incomplete, or another file (their MD5 "
        "checksum is not "
        f"{dict(datasets.MNIST.resources)[name]}); try again, or put {name}, "
        "train-labels-idx1-ubyte.gz, "
        f"t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz into {mnist.folder} by hand"
    )
    server.files["cifar-10-python.tar.gz"] = b"another"
    assert refused(cifar) == (
        f"{server.url}cifar-10-python.tar.gz: the 7 bytes received are incomplete, or another "
        "file (their MD5 "
        f"checksum is not {datasets.CIFAR10.tgz_md5}); try again, or put cifar-10-python.tar.gz "
        f"into {cifar.folder} by hand"
    )


def test_broken_connection(mnist: MNIST, server: Server) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    server.broken.add(name)
    assert refused(mnist) == (
        f"{server.url}{name}: the {len(server.files[name]) // 2:,} bytes received are incomplete, "
        "or another file (their "
        f"MD5 checksum is not {dict(datasets.MNIST.resources)[name]}); try again, or put {name}, "
        f"t10k-labels-idx1-ubyte.gz into {mnist.folder} by hand"
    )
    server.broken.clear()
    mnist.prepare_data()
    mnist.setup()
    assert server.downloads.count("train-images-idx3-ubyte.gz") == 1  # what was whole has stayed


def test_http_error(cifar: CIFAR10, server: Server) -> None:
    server.files.clear()
    assert refused(cifar) == (
        f"{server.url}cifar-10-python.tar.gz: HTTP Error 404: Not Found; try again, or put "
        "cifar-10-python.tar.gz into "
        f"{cifar.folder} by hand"
    )


def test_no_network(mnist: MNIST, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nowhere, nowhere + "other/"])
    name = "train-images-idx3-ubyte.gz"
    assert refused(mnist) == (
        f"{nowhere}{name}: Connection refused; {nowhere}other/{name}: Connection refused; try "
        f"again, or put {name}, "
        "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz "
        f"into {mnist.folder} by hand"
    )


def test_unwritable_folder(tmp_path: Path, mnist: MNIST) -> None:
    (tmp_path / "data").write_text("a file")
    assert refused(mnist) == (
        f"{mnist.folder}: the data cannot be written there: Not a directory; set data.data_dir=… "
        "to another folder"
    )


# Files put there by hand


def test_archives_put_by_hand(mnist: MNIST, cifar: CIFAR10, server: Server) -> None:
    mnist.folder.mkdir(parents=True)
    for name in server.files:
        folder = cifar.folder if name.startswith("cifar") else mnist.folder
        (folder / name).write_bytes(server.files[name])
    for data in (mnist, cifar):
        data.prepare_data()
        data.setup()
    assert server.downloads == []
    assert (cifar.folder / "cifar-10-python.tar.gz").exists()  # they are the user's


def test_extracted_files_put_by_hand(
    mnist: MNIST, cifar: CIFAR10, server: Server, tmp_path: Path
) -> None:
    mnist.folder.parent.mkdir(parents=True)
    made = tmp_path / "made"
    (made / "cifar-10-batches-py").rename(cifar.folder / "cifar-10-batches-py")
    made.rename(mnist.folder)
    for data in (mnist, cifar):
        data.prepare_data()
        data.setup()
    assert server.downloads == []
    assert not list(cifar.folder.glob(".*"))  # not even a lock


def test_wrong_archive_put_by_hand(cifar: CIFAR10, server: Server) -> None:
    cifar.folder.mkdir()
    path = cifar.folder / "cifar-10-python.tar.gz"
    path.write_bytes(b"half of it")
    assert refused(cifar) == (
        f"{path}: its MD5 checksum is {md5(b'half of it')}, not {datasets.CIFAR10.tgz_md5}: it is "
        "incomplete, or another "
        "file; delete it to download it, or put the right one there"
    )
    assert path.read_bytes() == b"half of it"
    assert server.downloads == []


# Archives that are not what they should be, although their checksum is right


def evil(name: str, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 0 if link else 4
    member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
    return member


@pytest.mark.parametrize(
    "member",
    [
        evil("../evil"),
        evil("cifar-10-batches-py/../../evil"),
        evil("/tmp/evil"),
        evil("link", "../.."),
    ],
)
def test_member_outside_of_the_archive_is_not_extracted(
    cifar: CIFAR10,
    server: Server,
    member: tarfile.TarInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve_cifar(server, tmp_path / "made", monkeypatch, member)
    cifar.prepare_data()
    assert not list(tmp_path.rglob("evil"))
    assert not list(tmp_path.rglob("link"))
    assert {path.name for path in cifar.folder.iterdir()} == {
        ".download.lock",
        "cifar-10-batches-py",
    }


def test_incomplete_archive(
    cifar: CIFAR10, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_cifar(server, tmp_path / "made", monkeypatch, without="data_batch_3")
    lack = f"lacks cifar-10-batches-py/data_batch_3; put the right file into {cifar.folder}"
    assert refused(cifar) == f"cifar-10-python.tar.gz: {lack}"
    half = server.files["cifar-10-python.tar.gz"][:50_000]
    server.files["cifar-10-python.tar.gz"] = half
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(half))
    assert refused(cifar) == (
        "cifar-10-python.tar.gz: cannot be unpacked: Compressed file ended before the "
        "end-of-stream marker was "
        f"reached; put the right file into {cifar.folder}"
    )


# Other processes

FETCH = """
import os, sys
from pathlib import Path
from src.kindling.data.download import Archive, fetch
folder, name, md5, url, files, die_at = sys.argv[1:]
replace, moves = os.replace, []

def move(*paths):
    moves.append(paths)
    if len(moves) == int(die_at):
        os.kill(os.getpid(), 9)
    replace(*paths)

os.replace = move
print("begins", flush=True)
fetch(Path(folder), [Archive(name, md5, (url,), tuple(files.split(",")))])
"""


def start(folder: Path, archive: Archive, die_at: int = 0) -> subprocess.Popen[bytes]:
    """A process that fetches, and kills itself at the n-th file that it moves into place."""
    arguments = [
        str(folder),
        archive.name,
        archive.md5,
        *archive.urls,
        ",".join(archive.files),
        str(die_at),
    ]
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def archive(cifar: CIFAR10, server: Server) -> Archive:
    """CIFAR-10's, as the data module makes it."""
    files = tuple(f"cifar-10-batches-py/{name}" for name, _ in datasets.CIFAR10.train_list)
    return Archive(
        "cifar-10-python.tar.gz", datasets.CIFAR10.tgz_md5, (datasets.CIFAR10.url,), files
    )


def test_killed_process_leaves_no_partial_file(
    archive: Archive, server: Server, tmp_path: Path
) -> None:
    folders = {moment: tmp_path / moment for moment in ("downloading", "unpacked", "moving")}
    server.files["held"] = server.files[archive.name]
    server.held.add("held")
    killed = [
        start(folders["downloading"], dataclasses.replace(archive, urls=(server.url + "held",))),
        start(folders["unpacked"], archive, 1),
        start(folders["moving"], archive, 3),
    ]
    assert server.halfway.wait(120)
    killed[0].kill()
    assert [(process.communicate()[0], process.returncode) for process in killed] == [
        (b"begins\n", -signal.SIGKILL)
    ] * 3
    for moment, there in (("downloading", 0), ("unpacked", 0), ("moving", 2)):
        folder = folders[moment]
        assert (folder / ".kindling-download").is_dir()  # it really was in the middle
        assert [(folder / file).exists() for file in archive.files] == [True] * there + [False] * (
            5 - there
        )
        fetch(folder, [archive])
        assert not (folder / ".kindling-download").exists()
        for file in archive.files:
            assert (folder / file).read_bytes() == (tmp_path / "made" / file).read_bytes()


def test_concurrent_processes_download_once(
    archive: Archive, server: Server, tmp_path: Path
) -> None:
    server.held.add(archive.name)
    both = [start(tmp_path / "data", archive) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
    assert server.halfway.wait(120)
    server.go_on.set()
    assert [(process.communicate()[0], process.returncode) for process in both] == [(b"", 0)] * 2
    assert server.downloads == [archive.name]
    assert os.listdir(tmp_path / "data" / "cifar-10-batches-py")
