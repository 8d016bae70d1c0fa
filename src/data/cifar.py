"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test color images, 32x32 pixels."""

from __future__ import annotations

import os
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from src.kindling.config import InputError
from src.kindling.data import Archive, DataModule, Samples, data_path, fetch


class CIFAR10(DataModule):
    """Color images `(3, 32, 32)` uint8 of ten kinds of things. The test set is CIFAR's own.

    The files are in `<data_dir>/cifar-10-batches-py`, extracted, as torchvision puts them; put
    there by hand, or as `<data_dir>/cifar-10-python.tar.gz`, they need no network.
    Source: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        data_dir: the folder of all data sets.
        base: see DataModule.
    """

    source: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10

    def __init__(self, data_dir: str = "data", **base: Any) -> None:
        super().__init__(**base)
        self.folder = data_path(data_dir)

    def download(self) -> None:
        files = tuple(f"{self.source.base_folder}/{name}" for name in self._checksums())
        archive = Archive(self.source.filename, self.source.tgz_md5, (self.source.url,), files)
        fetch(self.folder, [archive])

    def load(self) -> Samples:
        # Unpickling another file could run any code.
        for name, md5 in self._checksums().items():
            path = self.folder / self.source.base_folder / name
            if not os.access(path, os.R_OK):
                raise InputError(
                    f"{path}: not readable; restore it, or delete it to download it again"
                )
            if not check_integrity(path, md5):
                problem = f"its MD5 checksum is not {md5}: it is incomplete, or another file"
                remedy = "delete it to have it downloaded again, or put the right one there"
                raise InputError(f"{path}: {problem}; {remedy}")
        with warnings.catch_warnings():
            # The old pickles give numpy 0 for False, and numpy 2.4.0 to 2.4.4 warn.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed as")
            train, test = (self.source(self.folder, train=part) for part in (True, False))
        images = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
        return Samples(
            x=torch.from_numpy(np.ascontiguousarray(images)),
            y=torch.tensor(train.targets + test.targets),
            classes=tuple(train.classes),
            official={"test": torch.arange(len(train), len(images))},
        )

    def _checksums(self) -> dict[str, str]:
        """The MD5 checksum of each file."""
        files, meta = [*self.source.train_list, *self.source.test_list], self.source.meta
        return dict([*files, (meta["filename"], meta["md5"])])


class CIFAR100(CIFAR10):
    """Color images `(3, 32, 32)` uint8 of 100 kinds of things; in `<data_dir>/cifar-100-python`."""

    source = datasets.CIFAR100
