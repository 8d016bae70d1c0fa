"""MNIST's files: what is read from them, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from src.data.mnist import MNIST, FashionMNIST
from src.kindling.config.errors import InputError
from src.kindling.data.samples import STAGES
from tests import make_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    make_mnist.write(tmp_path / "MNIST" / "raw", 300, 100)
    return tmp_path / "MNIST" / "raw"


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_samples_equal_torchvision(kind: type[MNIST], tmp_path: Path) -> None:
    make_mnist.write(tmp_path / kind.source.__name__ / "raw", 300, 100)
    data = kind(data_dir=str(tmp_path), split=(0.9, 0.1, 0), batch_size=32)
    data.prepare_data()
    data.setup()
    samples = data.samples
    assert isinstance(samples.x, torch.Tensor)
    assert (samples.x.dtype, samples.x.shape, samples.y.dtype) == (
        torch.uint8,
        (400, 1, 28, 28),
        torch.int64,
    )
    assert [len(data.indices[stage]) for stage in STAGES] == [270, 30, 100]
    for train, part in ((True, slice(0, 300)), (False, slice(300, None))):
        reference = kind.source(tmp_path, train=train)
        assert torch.equal(samples.x[part, 0], reference.data)
        assert torch.equal(samples.y[part], reference.targets)
        assert samples.classes == tuple(reference.classes)
    assert torch.equal(data.indices["test"], torch.arange(300, 400))
    assert (data.spec.in_shape, data.spec.num_outputs) == ((1, 28, 28), 10)
    assert [note.partition(":")[0] for note in data.notes] == ["classes"]  # no image twice


def test_made_data_follow_the_seed(raw: Path, tmp_path: Path) -> None:
    make_mnist.write(tmp_path / "again", 300, 100)
    make_mnist.write(tmp_path / "other", 300, 100, seed=1)
    for path in raw.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


def break_file(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        broken = {
            "cut": content[:-1],
            "longer": content + b"0",
            "empty": b"",
            "zeros": bytes(len(content)),
            "page": b"<!DOCTYPE html><html>",
            "fewer": content[:4] + struct.pack(">i", 7) + content[8:15],
            "wide": content[:4] + struct.pack(">iii", 1, 28, 32) + bytes(28 * 32),
            "high": content[:-1] + b"\x0a",
        }
        path.write_bytes(broken[how])


AGAIN = "; delete it to have it downloaded again, or put the right one there"


@pytest.mark.parametrize(
    ("name", "how", "problem", "remedy"),
    [
        (
            IMAGES,
            "gone",
            "No such file or directory",
            "; restore it, or delete it to download it again",
        ),
        (IMAGES, "cut", "not a complete IDX file", AGAIN),
        (IMAGES, "longer", "not a complete IDX file", AGAIN),
        (IMAGES, "empty", "not a complete IDX file", AGAIN),
        (IMAGES, "zeros", "not a complete IDX file", AGAIN),
        (IMAGES, "wide", "its images are 28x32, not 28x28", AGAIN),
        (LABELS, "page", "not a complete IDX file", AGAIN),
        (LABELS, "cut", "not a complete IDX file", AGAIN),
        (LABELS, "fewer", "7 labels for 300 images", AGAIN),
        (LABELS, "high", "has label 10; the highest is 9", AGAIN),
    ],
)
def test_broken_file_is_named(raw: Path, name: str, how: str, problem: str, remedy: str) -> None:
    break_file(raw / name, how)
    with pytest.raises(InputError) as caught:
        MNIST(data_dir=str(raw.parent.parent)).setup()
    (line,) = caught.value.lines
    assert line.startswith(f"{raw / name}: {problem}")
    assert line.endswith(remedy)
