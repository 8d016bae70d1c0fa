"""Image files as a source of batches: uint8 of one shape, whatever their format and size."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DATA
from src.kindling.data.images.decode import ResizeMode, decode, make_square
from src.kindling.data.loader import make_loader
from src.kindling.data.samples import Samples, take

HEADERS = 1000  # of a folder's files: enough to be sure, and quick for a folder of any size
ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of a complete JPEG and a complete PNG
CHUNK_BYTES = 64 << 20  # packed at most between two writes


class Paths:
    """File names relative to one folder, in an array: workers share it, and would copy a list."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root = root
        self.names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(self.names[i])

    def path(self, i: int) -> str:
        return os.path.join(self.root, self[i]).removeprefix(f".{os.sep}")  # of Path()

    def fingerprint(self, *settings: object, index: Sequence[int] | None = None) -> str:
        """A hash of settings and of files' names, sizes and modification times; names a cache."""
        digest = hashlib.blake2b(os.fsencode(f"{self.root} {settings}"), digest_size=12)
        for i in range(len(self)) if index is None else index:
            digest.update(self.names[i])
            with suppress(OSError):  # reading a missing file reports it
                status = os.stat(self.path(i))
                digest.update(struct.pack("<qq", status.st_size, status.st_mtime_ns))
        return digest.hexdigest()


@dataclass(eq=False)
class ImageFiles:
    """Images in files, by number.

    An index tensor gives a batch `(B, channels, size, size)` uint8; an int gives one image.

    Args:
        paths: the files.
        channels, size: of the common shape; images are converted to it.
        resize_mode, max_pixels: see ImageModule.
        own_size: keep the size of single images, for transforms that crop or resize them.
        packed: the decoded images, where data.cache has them.
    """

    paths: Paths
    channels: int
    size: int
    resize_mode: ResizeMode
    max_pixels: int
    own_size: bool = False
    packed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, int):
            return self._read(index, self.own_size) if self.packed is None else self.packed[index]
        if self.packed is not None:
            return take(self.packed, index)
        return torch.stack([self._read(i, own_size=False) for i in index.tolist()])

    def _read(self, i: int, own_size: bool) -> Tensor:
        size = None if own_size else self.size
        image = decode(self.paths.path(i), self.channels, self.max_pixels, size)
        image = image if own_size else make_square(image, self.size, self.resize_mode)
        return pil_to_tensor(image)  # type: ignore[no-any-return]

    def find_problem(self, i: int) -> str:
        """Why an image cannot be read, as a line for the user; empty if it can be."""
        try:
            decode(self.paths.path(i), self.channels, self.max_pixels, self.size)
        except InputError as error:
            return str(error)
        return ""

    def content_keys(self) -> Any:
        """A key of each file's content `(N,)` uint64; cached, as a large folder takes minutes."""

        def compute() -> Any:
            paths = [self.paths.path(i) for i in range(len(self))]
            sizes = np.array([os.path.getsize(p) if os.path.exists(p) else -1 for p in paths])
            # A missing file equals no other.
            keys = np.where(sizes < 0, (1 << 62) + np.arange(len(paths)), sizes).astype(np.uint64)
            # Files of one size by their first 4,096 bytes, and by the rest where these are equal.
            for length, smallest in ((4096, 0), (-1, 4097)):
                _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
                for i in np.flatnonzero((counts[group] > 1) & (sizes >= smallest)).tolist():
                    with suppress(OSError), open(paths[i], "rb") as file:
                        salt = struct.pack("<q", sizes[i])
                        content = hashlib.blake2b(file.read(length), digest_size=8, salt=salt)
                        keys[i] = int.from_bytes(content.digest(), "little") | (1 << 63)
            return keys

        return load_or_compute("duplicates", self.paths.fingerprint(), compute)


def inspect_headers(paths: Paths) -> tuple[int, int]:
    """Channels (1 if a sample is gray, else 3) and size (the sides' median) of the files."""
    sides: list[int] = []
    modes = set()
    for i in np.linspace(0, len(paths) - 1, min(len(paths), HEADERS)).astype(int).tolist():
        with suppress(Exception), Image.open(paths.path(i)) as image:
            sides += image.size
            modes.add(Image.getmodebase(image.mode))
    if not sides:
        raise InputError(f"{paths.root}: no file can be read as an image; set data.root")
    size = np.clip(round(float(np.median(sides)) / 8) * 8, 8, 224)
    return (1 if modes == {"L"} else 3), int(size)


def inspect_files(inspect: Callable[[int], Any], count: int) -> list[Any]:
    """The results for files by number, in threads."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(inspect, range(count)))


def refuse(lines: Sequence[str], things: str, most: int) -> None:
    """Raise an error of these lines, if there are any."""
    if len(lines) > most:
        lines = [*lines[:most], f"and {len(lines) - most:,} more {things}"]
    if lines:
        raise InputError(lines)


def find_unreadable(images: ImageFiles, whole: bool) -> dict[int, str]:
    """The images that cannot be read, by number, with the line of `find_problem`; cached.

    Args:
        whole: decode each file; otherwise those whose header and end do not suffice.
    """

    def is_unreadable(i: int) -> bool:
        path = images.paths.path(i)
        with suppress(Exception), Image.open(path) as image, open(path, "rb") as file:
            file.seek(-max(map(len, ENDS)), os.SEEK_END)
            width, height = image.size
            if not whole and file.read().endswith(ENDS) and width * height <= images.max_pixels:
                return False
        return images.find_problem(i) != ""

    def compute() -> Any:
        if whole:
            print(f"images: reading all {len(images):,} files once to find unreadable ones")
        return np.flatnonzero(inspect_files(is_unreadable, len(images)))

    key = images.paths.fingerprint(images.max_pixels, whole)
    numbers = load_or_compute("readable", key, compute).tolist()
    # An installed package may read some of them in the meantime.
    return {i: problem for i in numbers if (problem := images.find_problem(i))}


def keep_own_size(samples: Samples, transforms: nn.Sequential | None) -> Samples:
    """Samples whose images and masks keep their own size, if a transform crops or resizes them."""
    names = [type(transform).__name__ for transform in transforms or ()]
    others = {"RandomShortestSize", "ScaleJitter"}
    if not any("Crop" in name or "Resize" in name or name in others for name in names):
        return samples

    def own(files: Any) -> Any:
        return replace(files, own_size=True) if isinstance(files, ImageFiles) else files

    return replace(samples, x=own(samples.x), y=own(samples.y))


def cache_path(folder: str, name: str) -> Path:
    """The path of a file in data/<folder>; makes the folder."""
    path = DATA / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def load_or_compute(folder: str, key: str, compute: Callable[[], Any]) -> Any:
    """Read an array from its cache under data/, or compute it where that is missing or damaged."""
    path = cache_path(folder, f"{key}.npy")
    with suppress(OSError, ValueError, EOFError):
        return np.array(np.load(path, mmap_mode="r"))  # takes no more than the file has
    found = compute()
    with suppress(OSError):  # it may be somebody else's folder
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, found)
        os.replace(temporary, path)
    return found


def pack(images: ImageFiles) -> Tensor:
    """Decode the images once into a file under data/, mapped as `(N, channels, size, size)` uint8.

    The file is named by the files' fingerprint and the common shape, so it is never stale, and gets
    its name when it is complete. An interrupted packing resumes. Of several processes, one packs
    and the others wait.

    Raises:
        InputError: when the disk has no room, or an image cannot be read.
    """
    key = images.paths.fingerprint(images.channels, images.size, images.resize_mode)
    path = cache_path("cache", f"{key}.uint8")
    shape = (len(images), images.channels, images.size, images.size)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists() or path.stat().st_size != np.prod(shape):
            _write_pack(images, path, bytes_per_image=int(np.prod(shape[1:])))
    # Copy-on-write: every reader shares the pages, and nothing can change the file.
    return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", shape=shape))


def _write_pack(images: ImageFiles, path: Path, bytes_per_image: int) -> None:
    unfinished = path.with_suffix(".part")
    size = max(1, min(256, CHUNK_BYTES // bytes_per_image))
    chunks = torch.split(torch.arange(len(images)), size)
    written = unfinished.stat().st_size // (size * bytes_per_image) if unfinished.exists() else 0
    # The last chunk may not have reached the disk; those before it were synchronized.
    first = max(0, min(written, len(chunks)) - 1)
    done = first * size
    needed = (len(images) - done) * bytes_per_image
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        problem = f"packing the images needs {needed / 2**30:.1f} GiB more, and"
        remedy = "make room, lower data.size, or set data.cache=none"
        raise InputError(f"{path.parent}: {problem} {free / 2**30:.1f} are free; {remedy}")
    resumed = f"; {done:,} are packed already" if done else ""
    print(f"packing {len(images):,} images for data.cache=memmap, once{resumed}")
    dataset: Any = images  # which gives a batch for an index tensor
    loader = make_loader(dataset, chunks[first:], usable_cores())
    quiet = not sys.stdout.isatty()
    with unfinished.open("r+b" if done else "wb") as file:
        file.truncate(done * bytes_per_image)
        file.seek(0, os.SEEK_END)
        for batch in track(loader, "packing", len(chunks) - first, disable=quiet):
            file.write(batch.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
