"""Pictures decoded once into one file, from which later epochs and runs read at the speed of memory."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.kindling.config.errors import InputError
from src.kindling.data.loader import Loader, as_it_is

if TYPE_CHECKING:
    from src.kindling.data.images.image_data import ImageFiles

# How many bytes are decoded between two notes of how far the packing has come.
NOTED = 64 << 20


def pack(images: ImageFiles, folder: Path, processes: int) -> Tensor:
    """The pictures as one tensor `(N, channels, size, size)` uint8 that lies in a file.

    The file's name follows from the list of files, their sizes and times of change, and the common shape, so it is
    never stale. It is written beside its final name and renamed when it is whole; an interrupted packing goes on where
    it was last noted. Several processes may ask at once: one packs, the others wait.

    Args:
        images: the pictures; those that cannot be read are marked in `images.unreadable`, or end the packing.
        folder: where the packed files lie.
        processes: how many decode.

    Raises:
        InputError: when the disk has no room, or a picture cannot be read.
    """
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f"{_key(images)}.uint8"
    shape = (len(images), images.channels, images.size, images.size)
    with FileLock(whole.with_suffix(".lock")):
        if not whole.exists():
            _write(images, whole, shape, processes)
    images.unreadable[json.loads(whole.with_suffix(".json").read_text())["unreadable"]] = True
    # Copy-on-write: pages are shared with every other reader, and nothing can change the file.
    return torch.from_numpy(np.memmap(whole, dtype=np.uint8, mode="c", shape=shape))


def _key(images: ImageFiles) -> str:
    sizes, changed = images.paths.file_times()
    digest = hashlib.blake2b(f"{images.paths.root} {images.channels} {images.size} {images.fit}".encode(
        "utf-8", "surrogateescape"), digest_size=12)  # fmt: skip
    for array in (images.paths.text, images.paths.ends, sizes, changed):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write(images: ImageFiles, whole: Path, shape: tuple[int, int, int, int], processes: int) -> None:
    part, note = whole.with_suffix(".part"), whole.with_suffix(".json")
    row = shape[1] * shape[2] * shape[3]
    done, unreadable = 0, []
    if part.exists() and note.exists():
        noted = json.loads(note.read_text())
        done, unreadable = noted["done"], noted["unreadable"]
    images.unreadable[unreadable] = True
    needed = (shape[0] - done) * row
    free = os.statvfs(whole.parent).f_bavail * os.statvfs(whole.parent).f_frsize
    if needed > free:
        raise InputError(f"{whole.parent}: the packed pictures need {needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} "
                         "are free; make room, lower data.size, or set data.cache=none")  # fmt: skip
    print(
        f"packing {shape[0]:,} pictures for data.cache=memmap, once" + (f"; {done:,} are there already" if done else "")
    )
    with part.open("r+b" if done else "wb") as file:
        file.truncate(done * row)
        file.seek(done * row)
        for batch in _progress(images, done, row, processes):
            file.write(batch.numpy().tobytes())
            done += len(batch)
            if file.tell() % NOTED < batch.numel() or done == shape[0]:
                file.flush()
                os.fsync(file.fileno())
                bad = torch.nonzero(images.unreadable).flatten().tolist()
                beside = note.with_suffix(".tmp")
                beside.write_text(json.dumps({"done": done, "unreadable": bad}))
                os.replace(beside, note)
    os.replace(part, whole)


def _progress(images: ImageFiles, start: int, row: int, processes: int) -> Iterator[Tensor]:
    size = max(1, min(256, NOTED // row))
    chunks = [torch.arange(i, min(i + size, len(images))) for i in range(start, len(images), size)]
    loader = Loader(_Chunks(images), sampler=chunks, batch_size=None, num_workers=processes, collate_fn=as_it_is)
    if not sys.stdout.isatty():
        yield from loader
        return
    from rich.progress import track

    yield from track(loader, description="packing", total=len(chunks))


class _Chunks(Dataset[Tensor]):
    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.images[index]
