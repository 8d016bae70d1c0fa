"""The preparation of an image file for an exported model, compared with the run's own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule
    from src.kindling.data.images.prepare import Preparation

SAMPLES = 16  # test samples that are compared


def describe_preparation(data: DataModule, form: str) -> dict[str, Any] | None:
    """Describe how an image file becomes raw input; None where the model takes no images.

    Raises:
        InputError: for ONNX, when this needs torch, or gives another input than the run's own code.
    """
    from src.kindling.data.images.prepare import Preparation, steps_of

    if data.spec.kind != "image" or form != "onnx":
        return None
    channels, height, width = data.spec.source_shape
    if channels not in (1, 3) or height != width:
        return None
    transform, images = data.transforms["test"], data.datasets["test"].samples.x
    prepare = Preparation(
        channels,
        height,
        getattr(data, "resize_mode", "crop"),
        getattr(images, "own_size", False),
        data.spec.max_value,
        steps_of(transform or ()),
    )
    index = data.indices["test" if len(data.indices["test"]) else "val"]
    for i in index[:SAMPLES].tolist():
        _compare(data, prepare, i)
    return dataclasses.asdict(prepare)


def _compare(data: DataModule, prepare: Preparation, i: int) -> None:
    """Compare the input of one test sample with the run's own.

    Raises:
        InputError: when they differ.
    """
    import numpy as np
    import torch

    try:
        own = data.datasets["test"][(0, 0, torch.tensor([i]))][0][0].numpy()
    except InputError:  # an image that the run skips
        return
    made = prepare(_open_image(data, i))
    if made.shape != own.shape:
        problem = f"in shape: {made.shape}, not {own.shape}"
    else:
        difference = np.abs(made.astype(float) - own).max()
        # Pillow and torch resize alike up to rounding to one of an image file's 255 levels.
        level = 1.01 * max(float(np.abs(own).max()), 1e-3) / 255
        if difference <= (1 if own.dtype == np.uint8 else level):
            return
        problem = f"by up to {difference:.3g}"
    raise InputError(
        "data.eval_transforms: a test sample prepared without torch differs from the run's own "
        f"{problem}; export with --format pt2"
    )


def _open_image(data: DataModule, i: int) -> Any:
    """A test sample as an image in memory."""
    import numpy as np
    import torch
    from PIL import Image

    from src.kindling.data.images.image_data import ImageFiles

    images = data.datasets["test"].samples.x
    if isinstance(images, ImageFiles):
        return Image.open(images.paths.path(i))
    levels = images[torch.tensor([i])][0].numpy() * (255 / data.spec.max_value)
    pixels = np.rint(levels).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
