"""Full disks, folders that can only be read, and workers that are killed: one line, and the last checkpoint is whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.kindling.config.compose import ROOT
from src.kindling.runs.checkpoint_file import read_checkpoint
from tests.faults.test_processes import WORDS, finished, killed, start, the_run, until

SMALL = ("net=mlp", "net.hidden=[8]")  # checkpoints of 20 KB


def limited(repository: Path, blocks: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A training whose files may have so many blocks of 1 KiB: what is longer fails, as on a full disk."""
    line = f"ulimit -f {blocks}; exec {sys.executable} -m src.train --no-plots {' '.join(words)}"
    return subprocess.run(["bash", "-c", line], cwd=repository, capture_output=True, text=True)


@pytest.mark.long
def test_full_disk_keeps_last_checkpoint(repository: Path) -> None:
    finished(repository, *WORDS[:5], "trainer.max_epochs=1")
    run = the_run(repository)
    before = {path.name: path.read_bytes() for path in run.checkpoints.iterdir()}
    ended = limited(repository, 64, "--resume", "latest", "trainer.max_epochs=3", "--override")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "File too large" in ended.stderr or "no space left" in ended.stderr
    after = {path.name: path.read_bytes() for path in run.checkpoints.iterdir()}
    assert after["last.ckpt"] == before["last.ckpt"]
    assert after["best.ckpt"] == before["best.ckpt"]
    assert not list(run.checkpoints.glob("*.tmp"))
    again = start(repository, "--resume", "latest", "trainer.max_epochs=3", "--override")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output


@pytest.mark.long
def test_full_event_file_does_not_end_training(repository: Path) -> None:
    words = (
        "digits",
        *SMALL,
        "num_threads=1",
        "trainer.max_epochs=40",
        "trainer.log_every_n_steps=1",
    )
    ended = limited(repository, 80, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = "TensorBoard: OSError: [Errno 27] File too large; training continues without it\n"
    assert ended.stdout.count(told) == 1
    run = the_run(repository)
    assert read_checkpoint(run.checkpoints / "last.ckpt")["global_step"] == 800
    assert run.metrics["test/accuracy"] > 0
    assert len((run.path / "metrics.csv").read_text().splitlines()) == 41
    assert len((run.path / "steps.csv").read_text().splitlines()) == 801


class Disk:
    """A small disk of its own over a folder, as only the process that is started here sees it."""

    def __init__(self, folder: Path, size: str, repository: Path, *words: str, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        train = f"{sys.executable} -u -m src.train --no-plots {' '.join(words)}"
        line = f"mount -t tmpfs -o size={size} tmpfs {folder} && echo mounted; read go; {train}; echo status $?; read end"
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", line],
            cwd=repository,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
        )
        assert self.process.stdout
        if self.process.stdout.readline() != "mounted\n":
            killed(self.process)
            pytest.skip("this user may not mount")
        self.folder = Path(f"/proc/{self.process.pid}/root{folder}")

    def fill(self) -> None:
        """Leave nothing free on it."""
        with (self.folder / "filled").open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def output(self) -> str:
        return "".join(until(self.process, lambda line: line.startswith("status ")))


@pytest.mark.skipif(not shutil.which("unshare"), reason="mounts of its own: Linux alone")
@pytest.mark.long
def test_disk_that_fills_up_keeps_checkpoints(repository: Path, tmp_path: Path) -> None:
    disk = Disk(
        repository / "logs",
        "2m",
        repository,
        "digits",
        *SMALL,
        "num_threads=1",
        "trainer.max_epochs=2000",
        "task.scheduler=null",
    )
    disk.go()
    until(disk.process, lambda line: line.startswith("epoch 3/"))
    disk.fill()
    output = disk.output()
    assert output.endswith("status 1\n"), output
    assert "no space left for logs/digits/" in output
    assert (
        "; make room; the last whole checkpoint is kept: python -m src.train --resume logs/digits/"
        in output
    )
    assert "Traceback" not in output
    shutil.copytree(disk.folder / "digits", tmp_path / "digits")
    killed(disk.process)
    shutil.copytree(tmp_path / "digits", repository / "logs" / "digits")
    run = the_run(repository)
    assert not list(run.path.rglob("*.tmp"))
    epochs = read_checkpoint(run.checkpoints / "last.ckpt")["kindling"]["resume"]["epoch"]
    assert epochs >= 2
    process = start(repository, "--resume", "latest", f"trainer.max_epochs={epochs + 1}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("unshare"), reason="mounts of its own: Linux alone")
def test_full_tmpdir_is_not_needed(repository: Path, tmp_path: Path) -> None:
    disk = Disk(
        tmp_path / "temporary",
        "64k",
        repository,
        *WORDS,
        "data.num_workers=2",
        TMPDIR=str(tmp_path / "temporary"),
    )
    disk.fill()
    disk.go()
    output = disk.output()
    assert output.endswith("status 0\n"), output
    assert sorted(path.name for path in disk.folder.iterdir()) == ["filled"]
    killed(disk.process)
    assert read_checkpoint(the_run(repository).checkpoints / "last.ckpt")["global_step"] == 80


@pytest.fixture
def ordinary() -> Iterator[tuple[Path, list[str]]]:
    """A copy of the repository, and what makes a command an ordinary user's: root may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        for name in ("src", "configs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "logs").mkdir()
        if os.getuid():
            yield copy, []
            return
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere")
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, 65534, 65534)
        yield copy, ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def begin_as(ordinary: tuple[Path, list[str]], *words: str) -> subprocess.Popen[str]:
    """Start a training as an ordinary user."""
    repository, user = ordinary
    return subprocess.Popen(
        [*user, sys.executable, "-u", "-m", "src.train", "--no-plots", *words],
        cwd=repository,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "HOME": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_read_only_logs(ordinary: tuple[Path, list[str]]) -> None:
    repository, _ = ordinary
    (repository / "logs").chmod(0o555)
    output, _ = (process := begin_as(ordinary, *WORDS)).communicate(timeout=60)
    assert (process.returncode, output) == (
        2,
        "logs/digits: the runs' folder cannot be made: Permission denied; let logs/ be a link to a folder that you may "
        "write\n",
    )


@pytest.mark.long
def test_read_only_run(ordinary: tuple[Path, list[str]]) -> None:
    repository, _ = ordinary
    words = ("num_threads=1", "trainer.max_epochs=2000", "task.scheduler=null")
    process = begin_as(ordinary, "digits", *SMALL, *words)
    until(process, lambda line: line.startswith("epoch 3/"))
    run = the_run(repository)
    for path in (run.checkpoints, run.path):
        path.chmod(0o555)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert f"logs/digits/{run.path.name}/checkpoints/" in output
    assert "this user may not open or write it; ls -ld shows who may" in output
    assert "Traceback" not in output
    output, _ = (process := begin_as(ordinary, "--resume", "latest")).communicate(timeout=60)
    assert process.returncode == 2
    named = rf"logs/digits/{run.path.name}/\S+: this user may not open or write it; ls -ld shows who may\n"
    assert re.fullmatch(named, output)
    for path in (run.path, run.checkpoints):
        path.chmod(0o755)
    epochs = read_checkpoint(run.checkpoints / "last.ckpt")["kindling"]["resume"]["epoch"]
    process = begin_as(ordinary, "--resume", "latest", f"trainer.max_epochs={epochs + 1}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


@pytest.mark.long
def test_killed_worker_is_named(repository: Path) -> None:
    process = start(
        repository,
        *WORDS[:5],
        "data.num_workers=2",
        "trainer.max_epochs=500",
        "task.scheduler=null",
    )
    until(process, lambda line: line.startswith("epoch 2/"))
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert output.endswith(
        "the system killed a data worker, most likely for lack of memory; set fewer data.num_workers "
        "or a smaller data.batch_size\n"
    )
    run = the_run(repository)
    epochs = read_checkpoint(run.checkpoints / "last.ckpt")["kindling"]["resume"]["epoch"]
    process = start(repository, "--resume", "latest", f"trainer.max_epochs={epochs + 1}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
