"""The base class for image files: one square shape, splits by their paths, and statistics."""

from __future__ import annotations

import time
from statistics import median, median_low
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import ResizeMode, size_of
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.loader import BatchDataset
from src.kindling.data.samples import Samples, Stage
from src.kindling.data.statistics import Moments, mean_and_std
from src.kindling.data.tables.split_columns import SplitBy

STATISTICS = 2048  # images that mean and standard deviation are taken from
TRIED = 3  # images whose reading is timed; the median leaves out the first one's extra time
SLOW = 2.0  # seconds for a batch


class ImageModule(DataModule):
    """Image files, converted to one square shape.

    Args:
        size: height and width; left out, the images' median side rounded to a multiple of 8, at
            most 224.
        channels: 1 or 3; left out, 3 unless all images are gray.
        resize_mode: how an image becomes square: its center cropped, squashed, or padded.
        max_pixels: refuse larger images before they are decoded.
        group_column: images of one group, such as a patient's, stay in one split: a regular
            expression that finds the group in each path.
        time: such an expression for a date or a number; the oldest are for training.
        dayfirst: whether 2.1.2023 is January 2; None finds out from days above 12.
        base: see DataModule.
    """

    cache = "none"  # ImageFolder has options for these two
    normalize = "train"
    faster_reading = "save smaller copies"  # the remedy in the estimate of reading times

    def __init__(
        self,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        resize_mode: ResizeMode = "crop",
        max_pixels: int = 100_000_000,
        group_column: str | None = None,
        time: str | None = None,
        dayfirst: bool | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if size is not None and size < 1:
            raise InputError(f"data.size: expected at least 1, got {size}")
        self.split_by = SplitBy(group_column, time, dayfirst)
        self.size, self.channels = size, channels
        self.resize_mode, self.max_pixels = resize_mode, max_pixels

    def open_images(self, paths: Paths) -> ImageFiles:
        """Find the common shape of the files."""
        channels, size = image_data.inspect_headers(paths)
        shape = self.channels or channels, self.size or size
        return ImageFiles(paths, *shape, self.resize_mode, self.max_pixels)

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        if self.cache == "none":
            samples = image_data.keep_own_size(samples, self.transforms[stage])
        return super().dataset(samples, stage)

    def statistics(self, samples: Samples, train: Tensor) -> Moments:
        """Mean and standard deviation of a sample of the training images; cached."""
        images: Any = samples.x
        seconds = self._time_reading(images, train)
        if self.normalize == "none":
            return (127.5,) * images.channels, (127.5,) * images.channels
        sample = train[torch.linspace(0, len(train) - 1, min(len(train), STATISTICS)).long()]
        settings = images.size, images.channels, images.resize_mode
        key = images.paths.fingerprint(*settings, index=sample.tolist())

        def compute() -> Any:
            if seconds:
                length = f"{len(sample):,} images, about {format_seconds(seconds * len(sample))}"
                print(f"images: computing mean and standard deviation ({length}, once)", flush=True)
            return np.array(mean_and_std(images, sample))

        mean, std = image_data.load_or_compute("statistics", key, compute)
        if np.allclose(mean, 0):
            example = images.paths[int(sample[0])]
            problem = f"all images are black once read as {images.channels} x 8 bits"
            reason = "transparency is dropped, and numbers of 16 or 32 bits are divided by 257"
            remedy = "save them as gray or RGB of 8 bits"
            where = f"{images.paths.root}: {problem} (such as {example})"
            raise InputError(f"{where}: {reason}; {remedy}")
        return tuple(mean.tolist()), tuple(std.tolist())

    def _time_reading(self, images: ImageFiles, train: Tensor) -> float:
        """Print an estimate if reading is slow, and return the seconds per image; 0 if not."""
        sizes, times = [], []
        tried = train[torch.linspace(0, len(train) - 1, TRIED).long()]
        with torch.random.fork_rng(devices=[]):  # transforms draw
            for i in tried:
                started = time.perf_counter()
                self.datasets["train"][(0, 0, i[None])]
                times.append(time.perf_counter() - started)
                sizes.append(size_of(images.paths.path(int(i))))
        batch, seconds = min(self.batch_size, len(train)), median(times)
        if batch * seconds < SLOW:
            return 0.0
        width, height = median_low(sizes)
        each = f"{width:,} x {height:,} pixels take {seconds:.2g} s each to read"
        batches = f"{format_seconds(batch * seconds)} for a batch of {batch:,}"
        epoch = f"{format_seconds(len(train) * seconds)} for an epoch of {len(train):,}"
        advice = f"in one process; {self.faster_reading}"
        print(f"images: {each}, about {batches}, {epoch} {advice}", flush=True)
        return seconds


def format_seconds(seconds: float) -> str:
    """`4.2 s`, `35 s`, `12 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
