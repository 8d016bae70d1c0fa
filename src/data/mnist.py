"""MNIST and Fashion-MNIST: 60,000 images to train with and 10,000 to test with, 28x28 pixels, ten classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.kindling.config.errors import InputError
from src.kindling.data.batch import Samples
from src.kindling.data.data_module import DataModule, data_path
from src.kindling.data.download import Archive, fetch

PIXELS = (28, 28)


class MNIST(DataModule):
    """Images of handwritten digits `(1, 28, 28)` uint8, and the digit that each shows. The test set is MNIST's own.

    The files lie in `<data_dir>/MNIST/raw`, extracted, where torchvision puts them too; put there by hand, extracted
    or as `.gz`, they need no network. Source: LeCun et al., http://yann.lecun.com/exdb/mnist/.

    Args:
        data_dir: where data sets lie.
        base: the arguments of `DataModule`.
    """

    title = "MNIST"  # torchvision's name of it, and the folder's

    def __init__(self, data_dir: str = "data", **base: Any) -> None:
        super().__init__(**base)
        self.folder = data_path(data_dir) / self.title / "raw"

    def download(self) -> None:
        from torchvision import datasets

        known = getattr(datasets, self.title)
        fetch(self.folder, [
            Archive(name, md5, tuple(mirror + name for mirror in known.mirrors), (name.removesuffix(".gz"),))
            for name, md5 in known.resources
        ])  # fmt: skip

    def load(self) -> Samples:
        from torchvision import datasets

        images = [self.folder / f"{part}-images-idx3-ubyte" for part in ("train", "t10k")]
        labels = [self.folder / f"{part}-labels-idx1-ubyte" for part in ("train", "t10k")]
        counts = [idx_shape(path, PIXELS) for path in images]
        for path, count, beside in zip(labels, counts, images, strict=True):
            if (found := idx_shape(path, ())) != count:
                raise InputError(f"{path}: {found:,} labels, and {beside.name} has {count:,} images; "
                                 "the two files belong together")  # fmt: skip
        # Both files are read into one tensor, so that no image lies in memory twice.
        x = np.empty((sum(counts), 1, *PIXELS), dtype=np.uint8)
        y = np.empty(sum(counts), dtype=np.uint8)
        train, test = slice(0, counts[0]), slice(counts[0], None)
        for place, pixels, numbers in zip((train, test), images, labels, strict=True):
            read_idx(pixels, x[place])
            read_idx(numbers, y[place])
            if (highest := y[place].max(initial=0)) > 9:
                raise InputError(
                    f"{numbers}: a label is {highest}, and the highest class is 9; this is another data set"
                )
        return Samples(
            x=torch.from_numpy(x),
            y=torch.from_numpy(y).long(),
            classes=tuple(getattr(datasets, self.title).classes),
            official={"test": torch.arange(counts[0], sum(counts))},
        )


class FashionMNIST(MNIST):
    """Images of clothes `(1, 28, 28)` uint8 of ten kinds, in MNIST's format and number; in `<data_dir>/FashionMNIST/raw`.

    Source: Xiao et al., https://github.com/zalandoresearch/fashion-mnist.
    """

    title = "FashionMNIST"


# ---------------------------------------------------------------------------------------------------------------
# The IDX format: two zero bytes, the type (8: uint8), the number of dimensions, each size as a big-endian 32-bit
# number, then the values.


def idx_shape(path: Path, item: tuple[int, ...]) -> int:
    """The number of items of one shape in a file, after its header and its length have been checked.

    Raises:
        InputError: when the file is missing, of another format or shape, or not as long as its header says.
    """
    remedy = "delete it to have it downloaded again, or put the right one there"
    try:
        size = path.stat().st_size
        header: list[int] = np.fromfile(path, dtype=">u4", count=2 + len(item)).tolist()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; put it there, or let it be downloaded") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(header) < 2 + len(item) or header[0] != 0x800 + 1 + len(item):
        raise InputError(f"{path}: no IDX file of {'images' if item else 'labels'} ({size:,} bytes); {remedy}")
    count, shape = header[1], tuple(header[2:])
    if shape != item:
        raise InputError(f"{path}: its images are {_by(shape)}, not {_by(item)}; {remedy}")
    expected = 4 * len(header) + count * math.prod(item)
    if size != expected:
        raise InputError(f"{path}: {size:,} bytes, and its header says {expected:,}; {remedy}")
    return count


def read_idx(path: Path, into: Any) -> None:
    """The values of a file whose header has been checked, into a contiguous uint8 array of their number."""
    with open(path, "rb") as file:
        file.seek(8 if into.ndim == 1 else 16)
        if file.readinto(into.reshape(-1).data) != into.size:
            raise InputError(f"{path}: it became shorter while it was read")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
