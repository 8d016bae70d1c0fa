"""The preparation of an image file for an exported model, compared with the run's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.images.image_data import ImageFiles
from src.kindling.data.images.prepare import Preparation, steps_of

SAMPLES = 16  # test samples that are compared


def describe_preparation(data: DataModule, form: str) -> dict[str, Any] | None:
    """Describe how an image file becomes raw input; None where the model takes no images.

    Raises:
        InputError: for ONNX, when this needs torch, or gives another input than the run's own code.
    """
    if data.spec.kind != "image" or form != "onnx":
        return None
    channels, height, width = data.spec.source_shape
    if channels not in (1, 3) or height != width:
        return None
    images: Any = data.datasets["test"].samples.x
    mode: Any = getattr(data, "resize_mode", "crop")
    whole, steps = getattr(images, "own_size", False), steps_of(data.transforms["test"] or ())
    prepare = Preparation(channels, height, mode, whole, data.spec.max_value, steps)
    index = data.indices["test" if len(data.indices["test"]) else "val"]
    for i in index[:SAMPLES].tolist():
        try:
            own = data.datasets["test"][(0, 0, torch.tensor([i]))][0][0].numpy()
        except InputError:  # an image that the run skips
            continue
        prepared = prepare(_open_image(data, i))
        if problem := _difference(prepared, own):
            raise InputError(
                "data.eval_transforms: a test sample prepared without torch differs from the run's "
                f"own {problem}; export with --format pt2"
            )
    return dataclasses.asdict(prepare)


def _difference(prepared: Any, own: Any) -> str:
    if prepared.shape != own.shape:
        return f"in shape: {prepared.shape}, not {own.shape}"
    difference = np.abs(prepared.astype(float) - own).max()
    # Pillow and torch resize alike up to rounding to one of an image file's 255 levels.
    level = 1.01 * max(float(np.abs(own).max()), 1e-3) / 255
    allowed = 1 if own.dtype == np.uint8 else level
    return "" if difference <= allowed else f"by up to {difference:.3g}"


def _open_image(data: DataModule, i: int) -> Image.Image:
    """A test sample as an image in memory."""
    images: Any = data.datasets["test"].samples.x
    if isinstance(images, ImageFiles):
        return Image.open(images.paths.path(i))
    levels = images[torch.tensor([i])][0].numpy() * (255 / data.spec.max_value)
    pixels = np.rint(levels).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
