"""Files that unpack to far more than they are: refused before they are read, by their sizes."""

from __future__ import annotations

import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.kindling.analysis.prediction_columns import Predictions
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.nn.backbones import read_weights
from src.kindling.runs import checkpoint_file
from src.kindling.runs.checkpoint_file import read_checkpoint
from tests.conftest import mistakes

OLD = ROOT / "tests" / "old_runs" / "digits" / "checkpoints" / "best.ckpt"
ZEROS = 300 * 2**20
BLOCK = bytes(2**24)


def fill(archive: zipfile.ZipFile, name: str, size: int, header: bytes = b"") -> None:
    with archive.open(name, "w", force_zip64=True) as part:
        part.write(header)
        for start in range(0, size, len(BLOCK)):
            part.write(BLOCK[: size - start])


def compressed(path: Path, size: int = ZEROS) -> Path:
    """A checkpoint whose parts are compressed, with zeros among them."""
    with (
        zipfile.ZipFile(OLD) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
        fill(new, f"{old.namelist()[0].partition('/')[0]}/data/zeros", size)
    return path


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was read")

    for name in ("torch.load", "zipfile.ZipFile.testzip", "zipfile.ZipFile.open"):
        monkeypatch.setattr(name, refuse)


def test_compressed_checkpoint_is_not_read(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = compressed(tmp_path / "small.ckpt")
    request.getfixturevalue("nothing_is_loaded")
    size = path.stat().st_size
    unpacked = OLD.stat().st_size + ZEROS
    assert size < unpacked / 100
    for verb in ("evaluate", "export", "predict"):
        (line,) = mistakes(verb, str(path), *(["digits.csv"] if verb == "predict" else []))
        assert "small.ckpt: not a readable checkpoint: " in line
        assert f"its {size:,} bytes would unpack to 3" in line
        assert line.endswith("; it was not read")
    with pytest.raises(InputError, match="would unpack to"):
        read_weights(path)
    shutil.copy(path, tmp_path / "small.pth")
    with pytest.raises(InputError, match=r"small\.pth: cannot be read: .* would unpack to"):
        read_weights(tmp_path / "small.pth")


def test_repeated_number_is_not_copied_into_a_lazy_layer(tmp_path: Path) -> None:
    content = torch.load(OLD, weights_only=True)
    content["state_dict"]["net.0.weight"] = torch.zeros(1).expand(10, 10**9)
    torch.save(content, tmp_path / "view.ckpt")
    with pytest.raises(InputError, match=r"state_dict: would take 40,\d+,\d+,\d+ bytes of a file"):
        read_checkpoint(tmp_path / "view.ckpt")


class Filled:
    """Pickled as a call that makes a bytearray of this size."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return bytearray, (ZEROS,)


def test_bytearray_of_any_size_is_not_made(tmp_path: Path) -> None:
    content = torch.load(OLD, weights_only=True)
    torch.save({**content, "x": Filled()}, tmp_path / "filled.ckpt", pickle_module=pickle)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="holds a bytearray, which may take any memory"):
        read_checkpoint(tmp_path / "filled.ckpt")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < ZEROS / 2


def test_compressed_predictions_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    columns = {"index": np.arange(9), "prediction": np.zeros((9, 32, 32), np.uint8)}
    Predictions(columns, None, "test").save(path)
    assert len(Predictions.load(path)) == 9
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({ZEROS},), }}".encode()
        header = header.ljust(117) + b"\n"
        fill(archive, "score.npy", ZEROS, b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(InputError) as caught:
        Predictions.load(path)
    (line,) = caught.value.lines
    size = path.stat().st_size
    assert f"test.npz: not readable: its {size:,} bytes would unpack to 31" in line
    assert line.endswith("; it was not read; remove it")


def test_predictions_of_simple_masks_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "SMALL", 0)
    circle = np.hypot(*np.mgrid[-256:256, -256:256]) < 100
    masks = np.zeros((40, 512, 512), np.uint8)
    for number, mask in enumerate(masks):
        mask[:] = np.roll(circle, number, axis=(0, 1))
    Predictions({"index": np.arange(40), "prediction": masks}, None, "test").save(
        tmp_path / "a.npz"
    )
    assert (Predictions.load(tmp_path / "a.npz")["prediction"] == masks).all()
    assert (tmp_path / "a.npz").stat().st_size < masks.nbytes / 100
    masks[:] = 0  # so that all of it would compress to nothing
    Predictions({"index": np.arange(40), "prediction": masks}, None, "test").save(
        tmp_path / "b.npz"
    )
    assert (Predictions.load(tmp_path / "b.npz")["prediction"] == 0).all()


def test_damaged_cache_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_data, "DATA", tmp_path)
    path = tmp_path / "statistics" / "a.npy"
    for damage in (b"", b"\x93NUMPY", None):
        found = image_data.load_or_compute("statistics", "a", lambda: np.arange(6.0))
        assert (found == np.arange(6.0)).all()
        written = path.read_bytes()
        path.write_bytes(written.replace(b"(6,)", b"(9999999999,)") if damage is None else damage)
    assert (
        image_data.load_or_compute("statistics", "a", lambda: np.arange(6.0)) == np.arange(6.0)
    ).all()
    assert path.read_bytes() == written


def test_packed_images_of_another_size_are_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_data, "DATA", tmp_path)
    for number in range(3):
        Image.new("L", (8, 8), 50 * number).save(tmp_path / f"{number}.png")
    paths = image_data.Paths(tmp_path, [f"{number}.png" for number in range(3)])
    images = image_data.ImageFiles(paths, 1, 8, "crop", 100)
    for size in (3 * 64, 0, 10, 10**9):
        assert image_data.pack(images)[:, 0, 0, 0].tolist() == [0, 50, 100]
        (packed,) = tmp_path.glob("cache/*.uint8")
        assert packed.stat().st_size == 3 * 64
        with packed.open("r+b") as file:
            file.truncate(size)


@pytest.mark.long  # half a minute
def test_memory_stays_bounded_before_a_checkpoint_of_7_gb(tmp_path: Path) -> None:
    path = compressed(tmp_path / "bomb.ckpt", 6_900_000_000)
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from src.kindling.runs.checkpoint_file import read_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_checkpoint(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    line, grown = done.stdout.splitlines()
    assert "would unpack to 6,90" in line
    assert int(grown) < 50_000  # kilobytes
