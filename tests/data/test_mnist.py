"""MNIST's files: what is read from them, what is refused, and the memory that it takes."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from src.data.mnist import MNIST, FashionMNIST
from src.kindling.config.errors import InputError
from src.kindling.data.batch import STAGES
from tests import make_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    make_mnist.write(tmp_path / "MNIST" / "raw", 300, 100)
    return tmp_path / "MNIST" / "raw"


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")  # torchvision's own reading
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_it_holds_what_torchvision_reads(kind: type[MNIST], tmp_path: Path) -> None:
    make_mnist.write(tmp_path / kind.title / "raw", 300, 100)
    data = kind(data_dir=str(tmp_path), split=(0.9, 0.1, 0), batch_size=32)
    data.prepare_data()
    data.setup()
    samples = data.samples
    assert isinstance(samples.x, torch.Tensor)
    assert (samples.x.dtype, samples.x.shape, samples.y.dtype) == (torch.uint8, (400, 1, 28, 28), torch.int64)
    assert [len(data.indices[stage]) for stage in STAGES] == [270, 30, 100]
    for train, part in ((True, slice(0, 300)), (False, slice(300, None))):
        reference = getattr(datasets, kind.title)(tmp_path, train=train)
        assert torch.equal(samples.x[part, 0], reference.data)
        assert torch.equal(samples.y[part], reference.targets)
        assert samples.classes == tuple(reference.classes)
    assert torch.equal(data.indices["test"], torch.arange(300, 400))
    assert (data.spec.in_shape, data.spec.num_outputs) == ((1, 28, 28), 10)
    assert data.notes == []  # no image twice


def test_made_data_are_a_function_of_the_seed(raw: Path, tmp_path: Path) -> None:
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
        path.write_bytes({"cut": content[:-1], "longer": content + b"0", "empty": b"", "zeros": bytes(len(content)),
                          "page": b"<!DOCTYPE html><html>", "fewer": content[:4] + struct.pack(">i", 7) + content[8:15],
                          "wide": content[:12] + struct.pack(">i", 32) + content[16:],
                          "high": content[:-1] + b"\x0a"}[how])  # fmt: skip


AGAIN = "delete it to have it downloaded again, or put the right one there"


@pytest.mark.parametrize(
    ("name", "how", "text"),
    [
        (IMAGES, "gone", "no such file; put it there, or let it be downloaded"),
        (IMAGES, "cut", f"235,215 bytes, and its header says 235,216; {AGAIN}"),
        (IMAGES, "longer", f"235,217 bytes, and its header says 235,216; {AGAIN}"),
        (IMAGES, "empty", f"no IDX file of images (0 bytes); {AGAIN}"),
        (IMAGES, "zeros", f"no IDX file of images (235,216 bytes); {AGAIN}"),
        (IMAGES, "wide", f"its images are 28x32, not 28x28; {AGAIN}"),
        (LABELS, "page", f"no IDX file of labels (21 bytes); {AGAIN}"),
        (LABELS, "cut", f"307 bytes, and its header says 308; {AGAIN}"),
        (LABELS, "fewer", f"7 labels, and {IMAGES} has 300 images; the two files belong together"),
        (LABELS, "high", "a label is 10, and the highest class is 9; this is another data set"),
    ],
)
def test_a_broken_file_is_named(raw: Path, name: str, how: str, text: str) -> None:
    break_file(raw / name, how)
    with pytest.raises(InputError) as caught:
        MNIST(data_dir=str(raw.parent.parent)).setup()
    assert caught.value.lines == [f"{raw / name}: {text}"]


def test_reading_takes_no_more_memory_than_the_data(tmp_path: Path) -> None:
    make_mnist.write(tmp_path / "MNIST" / "raw", 6000, 1000)
    data = MNIST(data_dir=str(tmp_path))
    data.load()
    tracemalloc.start()  # numpy reports its arrays to it, and nothing of this size is torch's own
    try:
        samples = data.load()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(samples.x, torch.Tensor)
    assert peak < 1.05 * samples.x.nbytes
