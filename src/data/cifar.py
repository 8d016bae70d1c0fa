"""CIFAR-10 and CIFAR-100: 50,000 colour images to train with and 10,000 to test with, 32x32 pixels."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from src.kindling.config.errors import InputError
from src.kindling.data.batch import Samples
from src.kindling.data.data_module import DataModule, data_path
from src.kindling.data.download import Archive, fetch

IMAGE = (3, 32, 32)


class CIFAR10(DataModule):
    """Colour images `(3, 32, 32)` uint8 of ten kinds of things. The test set is CIFAR's own.

    The files lie in `<data_dir>/cifar-10-batches-py`, extracted, where torchvision puts them too; put there by hand,
    or as the archive `<data_dir>/cifar-10-python.tar.gz`, they need no network.
    Source: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        data_dir: where data sets lie.
        base: the arguments of `DataModule`.
    """

    title = "CIFAR10"  # torchvision's name of it
    labels = b"labels"  # where a batch file has the class numbers

    def __init__(self, data_dir: str = "data", **base: Any) -> None:
        super().__init__(**base)
        self.folder = data_path(data_dir)

    def download(self) -> None:
        known = self._known()
        names = [name for name, _ in (*known.train_list, *known.test_list)] + [known.meta["filename"]]
        files = tuple(f"{known.base_folder}/{name}" for name in names)
        fetch(self.folder, [Archive(known.filename, known.tgz_md5, (known.url,), files)])

    def load(self) -> Samples:
        known = self._known()
        folder = self.folder / known.base_folder
        parts = [[(folder / name, md5) for name, md5 in part] for part in (known.train_list, known.test_list)]
        files = [*parts[0], *parts[1]]
        for path, md5 in (*files, (folder / known.meta["filename"], known.meta["md5"])):
            check(path, md5)
        # All batches go into one tensor, so that no more than one lies in memory twice. How many images they hold is
        # known only once they are read; their files' bytes give room for some percent more, cut off at the end.
        x = torch.empty((sum(path.stat().st_size for path, _ in files) // (3 * 32 * 32), *IMAGE), dtype=torch.uint8)
        y: list[int] = []
        for number, (path, _) in enumerate(files):
            if number == len(parts[0]):
                train = len(y)
            batch = unpickle(path)
            images = torch.from_numpy(batch[b"data"])
            x[len(y) : len(y) + len(images)] = images.reshape(-1, *IMAGE)
            y += batch[self.labels]
        names = unpickle(folder / known.meta["filename"])[known.meta["key"].encode()]
        return Samples(
            x=x[: len(y)],
            y=torch.tensor(y),
            classes=tuple(name.decode() for name in names),
            official={"test": torch.arange(train, len(y))},
        )

    def _known(self) -> Any:
        """What torchvision knows of it: addresses, file names and checksums."""
        from torchvision import datasets

        return getattr(datasets, self.title)


class CIFAR100(CIFAR10):
    """Colour images `(3, 32, 32)` uint8 of a hundred kinds of things; in `<data_dir>/cifar-100-python`."""

    title = "CIFAR100"
    labels = b"fine_labels"


def check(path: Path, md5: str) -> None:
    """Refuse a file that is not the one with this checksum: unpickling another could run anything.

    Raises:
        InputError: when it is missing or another.
    """
    from torchvision.datasets.utils import calculate_md5

    try:
        found = calculate_md5(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; put it there, or let it be downloaded") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if found != md5:
        raise InputError(f"{path}: its MD5 checksum is {found}, not {md5}: it is cut off, or another file; "
                         "delete it to have it downloaded again, or put the right one there")  # fmt: skip


def unpickle(path: Path) -> Any:
    """What a checked batch file holds: a dict with bytes as keys, since Python 2 has written it."""
    with open(path, "rb") as file, warnings.catch_warnings():
        # The old pickles give numpy 0 for False, and numpy 2.4.0 to 2.4.4 mind.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed as")
        return pickle.load(file, encoding="bytes")
