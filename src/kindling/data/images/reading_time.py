"""How long image files take to read, announced before many are read, and their statistics."""

from __future__ import annotations

import time
from contextlib import suppress
from statistics import median, median_low
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.images.decode import size_of
from src.kindling.data.images.image_data import load_or_compute
from src.kindling.data.samples import Samples
from src.kindling.data.statistics import Moments, mean_and_std

STATISTICS = 2048  # images that mean and standard deviation are taken from
TRIED = 3  # images whose reading is timed; the median leaves out what only the first takes
SLOW = 2.0  # seconds for a batch


def time_reading(data: DataModule, samples: Samples, train: Tensor, remedy: str) -> float:
    """Print sizes and an estimate if reading a training batch takes more than two seconds.

    Args:
        data, samples: whose inputs are image files.
        train: the numbers of the training samples, `(N,)`.
        remedy: what makes reading faster.

    Returns:
        The seconds for an image; 0 if reading is fast.
    """
    files: Any = samples.x
    sizes, times = [], []
    tried = train[torch.linspace(0, len(train) - 1, TRIED).long()]
    # An unreadable file is reported where it is needed; transforms draw from torch's generator.
    with suppress(InputError), torch.random.fork_rng(devices=[]):
        for i in tried:
            started = time.perf_counter()
            data.datasets["train"][(0, 0, i[None])]
            times.append(time.perf_counter() - started)
            sizes.append(size_of(files.paths.path(int(i))))
    batch, seconds = min(data.batch_size, len(train)), median(times or [0.0])
    if batch * seconds < SLOW:
        return 0.0
    width, height = median_low(sizes)
    epoch = f"{format_seconds(len(train) * seconds)} for an epoch of {len(train):,} in one process"
    print(
        f"images: {width:,} x {height:,} pixels take {seconds:.2g} s each to read, about "
        f"{format_seconds(batch * seconds)} for a batch of {batch:,}, {epoch}; {remedy}",
        flush=True,
    )
    return seconds


def image_statistics(images: Any, train: Tensor, seconds: float = 0.0) -> Moments:
    """Mean and standard deviation of a sample of the training images; cached.

    Args:
        images: the files.
        train: the numbers of the training samples, `(N,)`.
        seconds: how long an image takes to read, if that is to be announced.
    """
    sample = train[torch.linspace(0, len(train) - 1, min(len(train), STATISTICS)).long()]
    settings = images.size, images.channels, images.resize_mode
    key = images.paths.fingerprint(*settings, index=sample.tolist())

    def compute() -> Any:
        if seconds:
            length = f"{len(sample):,} images, about {format_seconds(seconds * len(sample))}"
            print(f"images: computing mean and standard deviation ({length}, once)", flush=True)
        return np.array(mean_and_std(images, sample))

    mean, std = load_or_compute("statistics", key, compute)
    if np.allclose(mean, 0):
        raise InputError(
            f"{images.paths.root}: all images are black once read as {images.channels} x 8 bits "
            f"(such as {images.paths[int(sample[0])]}): transparency is dropped, and numbers of 16 "
            "or 32 bits are divided by 257; save them as gray or RGB of 8 bits (data.root)"
        )
    return tuple(mean.tolist()), tuple(std.tolist())


def format_seconds(seconds: float) -> str:
    """`4.2 s`, `35 s`, `12 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
