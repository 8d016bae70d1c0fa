"""Mask files: read, inspected, and a source of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import make_square, size_of
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.masks import VOID


@dataclass(eq=False)
class MaskFiles(ImageFiles):
    """Masks in files, by number: `(B, size, size)` uint8 for an index tensor, one mask for an int.

    Args:
        values: the value of each class in the files; every other value becomes VOID.
    """

    values: Sequence[int] = ()

    def _read(self, i: int, own_size: bool) -> Tensor:
        class_of = np.full(256, VOID, dtype=np.uint8)
        class_of[list(self.values)] = np.arange(len(self.values))
        mask = Image.fromarray(class_of[read_mask(self.paths.path(i))])
        if not own_size:
            nearest = Image.Resampling.NEAREST
            mask = make_square(mask, self.size, self.resize_mode, nearest, VOID)
        return torch.from_numpy(np.array(mask))


def mask_values(images: Paths, masks: Paths) -> Any:
    """Which of the 256 values each mask has, `(N, 256)` bool; cached."""

    def inspect(i: int) -> Any:
        return _inspect_mask(images.path(i), masks.path(i))

    def compute() -> Any:
        found = image_data.inspect_files(inspect, len(masks))
        image_data.refuse([line for line in found if isinstance(line, str)], "masks", most=5)
        return np.stack(found)

    key = images.fingerprint(masks.fingerprint())
    return image_data.load_or_compute("masks", key, compute)


def _inspect_mask(image_path: str, mask_path: str) -> Any:
    """Which of the 256 values a mask has, `(256,)` bool; or a line on a problem."""
    try:
        mask = read_mask(mask_path)
        width, height = size_of(image_path)
    except InputError as error:
        return str(error)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError …
        return f"{image_path}: cannot be read as an image: {error}"
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels"
        image = f"its image {Path(image_path).name} has {width} x {height}"
        return f"{mask_path}: {size}, and {image}; make them equal"
    return np.bincount(mask.ravel(), minlength=256) > 0


def read_mask(path: str) -> Any:
    """The values of a mask file, `(H, W)` uint8."""
    remedy = "save one channel with a class number from 0 to 255 for each pixel"
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.asarray(image)  # of a palette the numbers, not the colors
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError …
        reason = str(error).replace(f" '{path}'", "")
        raise InputError(f"{path}: cannot be read as a mask: {reason}") from None
    if mode not in ("L", "P", "1") and not mode.startswith("I"):
        raise InputError(f"{path}: has colors ({mode}); {remedy}")
    if mask.min() < 0 or mask.max() > 255:  # in 16 or 32 bits
        raise InputError(f"{path}: has values from {mask.min()} to {mask.max()}; {remedy}")
    return mask.astype(np.uint8)
