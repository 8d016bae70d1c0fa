"""Large images are announced before many of them are read."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from src.kindling.data.images import image_data, image_module
from src.kindling.data.images.image_folder import ImageFolder
from src.kindling.data.images.mask_folder import MaskFolder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_data, "DATA", tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(40):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5000, 40), (i, 0, 0)).save(path)
    return tmp_path / "images"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, on a clock by which each takes half a second."""
    read: list[str] = []
    decode = image_data.decode

    def note(path: str, *args: Any) -> Any:
        read.append(path)
        return decode(path, *args)

    monkeypatch.setattr(image_data, "decode", note)
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 2)
    monkeypatch.setattr(image_module, "time", clock)
    return read


def test_slow_images_are_announced_before_most_are_read(
    folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, read_before = [], []

    def note(line: str, **_: Any) -> None:
        lines.append(line)
        read_before.append(len(reads))

    monkeypatch.setattr(image_module, "print", note, raising=False)
    data = ImageFolder(str(folder), batch_size=16, num_workers=0)
    data.setup()
    assert lines == [
        "images: 5,000 x 40 pixels take 0.5 s each to read, about 8.0 s for a batch of 16, 14 s "
        "for an epoch of 28 in one process; set data.cache=memmap, or save smaller copies",
        "images: computing mean and standard deviation (28 images, about 14 s, once)",
    ]
    assert max(read_before) <= 5
    again = ImageFolder(str(folder), batch_size=16, num_workers=0)
    again.setup()
    assert lines[2:] == lines[:1]  # mean and deviation are cached


def test_fast_images_are_not_announced(
    folder: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ImageFolder(str(folder), batch_size=3, num_workers=0).setup()  # 1.5 s for a batch
    assert capsys.readouterr().out == ""


def test_images_with_masks_are_announced(
    tmp_path: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        for name, color in (("images", (i, 0, 0)), ("masks", i % 2)):
            path = tmp_path / "scans" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = "RGB" if name == "images" else "L"
            Image.new(mode, (5000, 40), color).save(path)
    MaskFolder(str(tmp_path / "scans"), batch_size=8, num_workers=0).setup()
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("images: 5,000 x 40 pixels take 0.5 s each to read, about 4.0 s for")
    assert line.endswith("; save smaller copies")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(4.21, "4.2 s"), (35, "35 s"), (700, "12 min"), (9000, "2.5 h")]
)
def test_estimates_have_two_digits(seconds: float, expected: str) -> None:
    assert image_module.format_seconds(seconds) == expected
