"""Image files as a source of batches: decoded to uint8 at a common shape, whatever their format and size."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import take
from src.kindling.data.data_module import DATA, mean_and_std
from src.kindling.data.images.decode import Fit, decode, fit_to

# Statistics are taken from so many files: enough to be sure, and quick on any folder.
STATISTICS = 2048


class Paths:
    """File names below one folder, in two arrays instead of a list of strings.

    Worker processes that touch a Python list copy its pages, an object at a time; these they share.

    Args:
        root: the folder.
        names: the files' names relative to it.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root = root
        encoded = [os.fsencode(name) for name in names]
        lengths = np.fromiter((len(name) for name in encoded), dtype=np.int64, count=len(encoded))
        self.ends = np.cumsum(lengths)
        self.text = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(self.text[start : self.ends[i]].tobytes())

    def path(self, i: int) -> str:
        return os.path.join(self.root, self[i])

    def file_times(self) -> tuple[Any, Any]:
        """Each file's size in bytes and time of change in nanoseconds, `(N,)` both; -1 and 0 for one that is gone."""
        sizes, changed = np.full(len(self), -1, dtype=np.int64), np.zeros(len(self), dtype=np.int64)
        for i in range(len(self)):
            with suppress(OSError):  # a file that is gone equals no other; reading it will tell
                status = os.stat(self.path(i))
                sizes[i], changed[i] = status.st_size, status.st_mtime_ns
        return sizes, changed

    def content_keys(self) -> Any:
        """A key of each file's content `(N,)`; kept under data/, since a large folder takes minutes to read.

        Only files that are as long as another are opened, and only those that also begin alike are read to the end.
        """
        sizes, changed = self.file_times()
        digest = hashlib.blake2b(str(self.root).encode("utf-8", "surrogateescape"), digest_size=12)
        for array in (self.text, self.ends, sizes, changed):
            digest.update(array.tobytes())
        kept = DATA / "duplicates" / f"{digest.hexdigest()}.npy"
        if kept.exists():
            return np.load(kept)
        keys = sizes.astype(np.uint64)
        gone = sizes < 0
        keys[gone] = (1 << 62) + np.flatnonzero(gone).astype(np.uint64)
        for length in (4096, -1):
            _, inverse, alike = np.unique(keys, return_inverse=True, return_counts=True)
            for i in np.flatnonzero((alike[inverse] > 1) & ~gone & ((sizes > 4096) | (length > 0))).tolist():
                with suppress(OSError), open(self.path(i), "rb") as file:
                    content = hashlib.blake2b(
                        file.read(length), digest_size=8, salt=struct.pack("<q", sizes[i])
                    ).digest()
                    keys[i] = int.from_bytes(content, "little") | (1 << 63)
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(beside, keys)
        os.replace(beside, kept)
        return keys


class ImageFiles:
    """Images in files, by number.

    An index tensor gives a batch `(B, channels, size, size)` uint8; an int gives one image, at its own size where
    `whole` is set and otherwise at the common one.

    Args:
        paths: the files.
        channels: 1 for grey, 3 for colour; images of the other kind are converted.
        size: height and width of the common shape.
        fit: how an image comes to that shape.
        whole: whether single images keep their own size, for transforms that crop or resize them.
        max_pixels: larger images are refused before they are decoded.
        on_error: what to do with an image that cannot be read.
        error_limit: the share of unreadable images above which `skip` stops.
    """

    def __init__(
        self,
        paths: Paths,
        channels: int,
        size: int,
        fit: Fit,
        whole: bool,
        max_pixels: int,
        on_error: Literal["error", "skip"],
        error_limit: float,
    ) -> None:
        self.paths = paths
        self.channels = channels
        self.size = size
        self.fit: Fit = fit
        self.whole = whole
        self.max_pixels = max_pixels
        self.on_error = on_error
        self.error_limit = error_limit
        # One byte a file, in memory that the workers share: what any of them could not read.
        self.packed: Tensor | None = None  # the pictures decoded, where data.cache has them
        self.unreadable = torch.zeros(len(paths), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        if self.packed is not None:
            return self.packed[index] if isinstance(index, int) else take(self.packed, index)
        if isinstance(index, int):
            image = self._read(index, None if self.whole else self.size)
            if image is None:
                return torch.zeros(self.channels, self.size, self.size, dtype=torch.uint8)
            return as_tensor(image if self.whole else fit_to(image, self.size, self.fit))
        batch = torch.zeros(len(index), self.channels, self.size, self.size, dtype=torch.uint8)
        for place, i in enumerate(index.tolist()):
            image = self._read(i, self.size)
            if image is not None:
                batch[place] = as_tensor(fit_to(image, self.size, self.fit))
        return batch

    def _read(self, i: int, size: int | None) -> Image.Image | None:
        path = self.paths.path(i)
        try:
            return decode(path, self.channels, self.max_pixels, size)
        except InputError:
            if self.on_error == "error":
                raise
        self.unreadable[i] = True
        bad = torch.nonzero(self.unreadable).flatten().tolist()
        if len(bad) > self.error_limit * len(self.paths):
            raise InputError(
                f"{len(bad):,} of {len(self.paths):,} images cannot be read, more than data.error_limit="
                f"{self.error_limit:g} allows: {counted([self.paths.path(one) for one in bad])}"
            )
        return None

    def content_keys(self) -> Any:
        """A key of each file's content `(N,)`."""
        return self.paths.content_keys()


def size_of(path: str) -> tuple[int, int]:
    """The width and height of the picture that `decode` makes of a file, from its header."""
    with Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if turned else image.size


def as_tensor(image: Image.Image) -> Tensor:
    """`(channels, height, width)` uint8."""
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def headers(paths: Paths, index: Iterable[int]) -> tuple[int, int]:
    """Channels and size that fit a sample of files, from their headers alone.

    Returns:
        1 if all of them are grey and 3 otherwise; the median side, rounded to a multiple of 8, at most 224.
    """
    sides: list[int] = []
    grey = True
    for i in index:
        try:
            with Image.open(paths.path(i)) as image:
                sides += image.size
                grey = grey and image.mode in ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
        except Exception:
            continue
    if not sides:
        raise InputError(f"{paths.root}: not one of the files can be read as an image")
    return (1 if grey else 3), int(min(max(round(float(np.median(sides)) / 8) * 8, 8), 224))


def kept_statistics(images: ImageFiles, train: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a sample of the training pictures; kept under data/ while the files are the same."""
    paths = images.paths
    chosen = train[torch.linspace(0, len(train) - 1, min(len(train), STATISTICS)).long()]
    digest = hashlib.blake2b(f"{paths.root} {images.size} {images.channels} {images.fit}".encode(), digest_size=12)
    for i in chosen.tolist():
        try:
            status = os.stat(paths.path(i))
            digest.update(f"{paths[i]} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        except OSError:  # reading it will tell
            continue
    kept = DATA / "statistics" / f"{digest.hexdigest()}.json"
    if kept.exists():
        mean, std = json.loads(kept.read_text())
        return tuple(mean), tuple(std)
    mean, std = mean_and_std(images, chosen)
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside = kept.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps([mean, std]))
    os.replace(beside, kept)
    return mean, std


def resizes(transform: Any) -> bool:
    """Whether a transform crops or resizes, and so wants each picture at its own size."""
    name = type(transform).__name__
    return "Crop" in name or "Resize" in name or name in ("RandomShortestSize", "ScaleJitter")
