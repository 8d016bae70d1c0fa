"""Images decoded once into one file, which later epochs and runs read at memory speed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.data.images.image_data import ImageFiles, cache_path
from src.kindling.data.loader import Loader, as_it_is
from src.kindling.runs.files import read_json, write_json

CHUNK_BYTES = 64 << 20  # decoded at most between two saves of the progress


def pack(images: ImageFiles) -> Tensor:
    """The images as one tensor `(N, channels, size, size)` uint8, mapped from a file under data/.

    The file's name follows from the list of files, their sizes and modification times, and the
    common shape, so it is never stale. It is renamed when it is complete; an interrupted packing
    resumes. Of several processes, one packs and the others wait. Unreadable images are marked in
    `images.unreadable`, or end the packing.

    Raises:
        InputError: when the disk has no room, or an image cannot be read.
    """
    from filelock import FileLock

    key = images.paths.fingerprint(images.channels, images.size, images.resize_mode)
    path = cache_path("cache", f"{key}.uint8")
    shape = (len(images), images.channels, images.size, images.size)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write(images, path, bytes_per_image=int(np.prod(shape[1:])))
    images.unreadable[read_json(path.with_suffix(".json"))["unreadable"]] = True
    # Copy-on-write: every reader shares the pages, and nothing can change the file.
    return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", shape=shape))


def _write(images: ImageFiles, path: Path, bytes_per_image: int) -> None:
    from rich.progress import track

    unfinished, progress = path.with_suffix(".part"), path.with_suffix(".json")
    done = 0
    if unfinished.exists() and progress.exists():
        saved = read_json(progress)
        done = saved["done"]
        images.unreadable[saved["unreadable"]] = True
    needed = (len(images) - done) * bytes_per_image
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{path.parent}: packing the images needs {needed / 2**30:.1f} GiB more, and "
            f"{free / 2**30:.1f} are free; make room, lower data.size, or set data.cache=none"
        )
    resumed = f"; {done:,} are packed already" if done else ""
    print(f"packing {len(images):,} images for data.cache=memmap, once{resumed}")
    dataset: Any = images  # which gives a batch for an index tensor
    chunk = max(1, min(256, CHUNK_BYTES // bytes_per_image))
    chunks = torch.split(torch.arange(done, len(images)), chunk)
    loader = Loader(
        dataset,
        sampler=chunks,
        batch_size=None,
        num_workers=usable_cores(),
        collate_fn=as_it_is,
    )
    with unfinished.open("r+b" if done else "wb") as file:
        file.truncate(done * bytes_per_image)
        file.seek(0, os.SEEK_END)
        for batch in track(loader, "packing", len(chunks), disable=not sys.stdout.isatty()):
            file.write(batch.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(batch)
            unreadable = torch.nonzero(images.unreadable).flatten().tolist()
            write_json(progress, {"done": done, "unreadable": unreadable})
    os.replace(unfinished, path)
