"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images, 28x28 pixels, ten classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from src.kindling.config import InputError
from src.kindling.data import Archive, DataModule, Samples, data_path, fetch

REMEDY = "delete it to have it downloaded again, or put the right one there"


class MNIST(DataModule):
    """Handwritten digits `(1, 28, 28)` uint8, and their classes. The test set is MNIST's own.

    The files are in `<data_dir>/MNIST/raw`, extracted, as torchvision puts them; put there by hand,
    extracted or as `.gz`, they need no network. Source: LeCun et al.,
    http://yann.lecun.com/exdb/mnist/.

    Args:
        data_dir: the folder of all data sets.
        base: see DataModule.
    """

    source: ClassVar[type[datasets.MNIST]] = datasets.MNIST

    def __init__(self, data_dir: str = "data", **base: Any) -> None:
        super().__init__(**base)
        self.folder = data_path(data_dir) / self.source.__name__ / "raw"

    def download(self) -> None:
        archives = []
        for name, md5 in self.source.resources:
            urls = tuple(mirror + name for mirror in self.source.mirrors)
            archives.append(Archive(name, md5, urls, files=(name.removesuffix(".gz"),)))
        fetch(self.folder, archives)

    def load(self) -> Samples:
        train, train_labels = self._read("train")
        test, test_labels = self._read("t10k")
        return Samples(
            x=torch.cat([train, test]).unsqueeze(1),
            y=torch.cat([train_labels, test_labels]),
            classes=tuple(self.source.classes),
            official={"test": torch.arange(len(train), len(train) + len(test))},
        )

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images `(N, 28, 28)` uint8 and their classes `(N,)` int64."""
        images_path = self.folder / f"{part}-images-idx3-ubyte"
        labels_path = self.folder / f"{part}-labels-idx1-ubyte"
        images = read_idx(images_path, read_image_file)
        labels = read_idx(labels_path, read_label_file)
        if images.shape[1:] != (28, 28):
            size = "x".join(map(str, images.shape[1:]))
            raise InputError(f"{images_path}: its images are {size}, not 28x28; {REMEDY}")
        if len(labels) != len(images):
            counts = f"{len(labels):,} labels for {len(images):,} images"
            raise InputError(f"{labels_path}: {counts}; {REMEDY}")
        if len(labels) and (highest := int(labels.max())) > 9:
            raise InputError(f"{labels_path}: has label {highest}; the highest is 9; {REMEDY}")
        return images, labels


class FashionMNIST(MNIST):
    """Clothes `(1, 28, 28)` uint8 of ten kinds; in `<data_dir>/FashionMNIST/raw`.

    Source: Xiao et al., https://github.com/zalandoresearch/fashion-mnist.
    """

    source = datasets.FashionMNIST


def read_idx(path: Path, read: Callable[[str], Tensor]) -> Tensor:
    try:
        return read(str(path))
    except OSError as error:
        problem = f"{error.strerror}; restore it, or delete it to download it again"
    except Exception as error:  # torchvision checks by assertions, look-ups and views
        problem = f"not a complete IDX file ({type(error).__name__}: {error}); {REMEDY}"
    raise InputError(f"{path}: {problem}")
