"""Prepare an image as the run's test does, from the steps in an exported file, without torch.

The export writes the steps and compares their result with the run's own; the server repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import ResizeMode, convert, make_square

Array = np.ndarray[Any, Any]
Step = dict[str, Any]  # the name of a function in STEPS, as `do`, and its arguments


@dataclass(frozen=True)
class Preparation:
    """From an opened image to the model's input. The names of the fields stand in exported files.

    Attributes:
        channels: 1 for gray, 3 for color.
        size: height and width of the common shape.
        fit: how an image becomes square, `data.resize_mode`.
        whole: whether it keeps its own size, for steps that crop or resize it.
        max_value: the largest value of a raw pixel.
        steps: what the test transforms do.
    """

    channels: int
    size: int
    fit: ResizeMode
    whole: bool
    max_value: float
    steps: Sequence[Step] = ()

    def __call__(self, image: Image.Image) -> Array:
        """`(C, H, W)`, uint8 or float32."""
        image = convert(image, self.channels, None if self.whole else self.size)
        if not self.whole:
            image = make_square(image, self.size, self.fit)
        x = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        if self.max_value != 255:  # training pixels have another range than the file's
            x = x * np.float32(self.max_value / 255)
            x = x if self.max_value <= 1 else np.rint(x).astype(np.uint8)
        for step in self.steps:
            arguments = {name: value for name, value in step.items() if name != "do"}
            x = STEPS[step["do"]](x, **arguments)
        return np.ascontiguousarray(x)


# The steps, each from `(C, H, W)` to `(C, H, W)`.


def resize(x: Array, size: Sequence[int], longest: int | None, how: str) -> Array:
    """Resize to `(height, width)`, or the shorter side to one number, the longer to a maximum."""
    height, width = x.shape[1:]
    if len(size) == 1:
        short, long = size[0], int(size[0] * max(height, width) / min(height, width))
        if longest is not None and long > longest:
            short, long = int(longest * short / long), longest
        size = (long, short) if width <= height else (short, long)
    if tuple(size) == (height, width):
        return x
    if how == "NEAREST":  # Pillow rounds differently in some places
        rows = (np.arange(size[0], dtype=np.float32) + 0.5) * np.float32(height / size[0])
        columns = (np.arange(size[1], dtype=np.float32) + 0.5) * np.float32(width / size[1])
        return x[:, rows.astype(int)[:, None], columns.astype(int)]
    images = [Image.fromarray(channel) for channel in x]
    resample = Image.Resampling[how]
    return np.stack([np.asarray(image.resize((size[1], size[0]), resample)) for image in images])


def crop(x: Array, size: Sequence[int]) -> Array:
    """Crop the center, `(height, width)`; a smaller image gets a black border first."""
    down, across = (max(0, new - old) for new, old in zip(size, x.shape[1:], strict=True))
    x = pad(x, [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2], 0)
    top, left = (round((old - new) / 2) for new, old in zip(size, x.shape[1:], strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


def pad(x: Array, border: Sequence[int], value: float) -> Array:
    """Add a border of one value: left, top, right, bottom."""
    left, top, right, bottom = border
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=value)


def to_gray(x: Array, channels: int) -> Array:
    """Luma, in one channel or three equal ones."""
    if len(x) == 3:
        red, green, blue = x * np.array([0.2989, 0.587, 0.114], dtype=np.float32).reshape(3, 1, 1)
        x = (red + green + blue)[None].astype(x.dtype)
    return np.repeat(x, channels, axis=0) if len(x) < channels else x


def to_float(x: Array, scale: bool) -> Array:
    """float32; with scale, 0 to 255 of a byte become 0 to 1."""
    return x.astype(np.float32) / np.float32(255 if scale and x.dtype == np.uint8 else 1)


STEPS: dict[str, Callable[..., Array]] = {
    "resize": resize,
    "crop": crop,
    "pad": pad,
    "grey": to_gray,
    "floating": to_float,
}
RESAMPLING = {"nearest-exact": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}


def steps_of(transforms: Iterable[Any]) -> list[Step]:
    """torchvision's transforms as steps; refuses those that cannot be done without torch."""
    steps: list[Step] = []
    lines: list[str] = []
    for i, transform in enumerate(transforms):
        module = re.sub(r"\._\w+", "", type(transform).__module__)
        name = f"{module}.{type(transform).__qualname__}"
        try:
            if not name.startswith(("torchvision.transforms.", "torch.nn.")):
                raise NotImplementedError("is not torchvision's")
            steps += _steps_of_transform(transform)
        except NotImplementedError as error:
            remedy = (
                "use Resize, CenterCrop, Pad, Grayscale or ToDtype, or export with --format pt2"
            )
            problem = f"{name} {error}; the server has no torch"
            lines.append(f"data.eval_transforms[{i}]: {problem}: {remedy}")
    if lines:
        raise InputError(lines)
    return steps


def _steps_of_transform(transform: Any) -> list[Step]:
    unsupported = "is not supported"
    match type(transform).__name__:
        case "Resize":
            mode = getattr(transform.interpolation, "value", transform.interpolation)
            smooth = mode != "nearest-exact"
            if transform.size and mode in RESAMPLING and (transform.antialias or not smooth):
                size, how = _as_list(transform.size), RESAMPLING[mode]
                return [{"do": "resize", "size": size, "longest": transform.max_size, "how": how}]
            options = f"size={transform.size}, {mode} and antialias={transform.antialias}"
            unsupported = f"with {options} is not supported"
        case "CenterCrop":
            size = _as_list(transform.size)
            return [{"do": "crop", "size": size * 2 if len(size) == 1 else size}]
        case "Pad":
            border, fill = _as_list(transform.padding), transform.fill
            if transform.padding_mode == "constant" and isinstance(fill, int | float):
                return [{"do": "pad", "border": border * (4 // len(border)), "value": fill}]
            unsupported = "is supported with padding_mode=constant and one fill value"
        case "Grayscale":
            return [{"do": "grey", "channels": transform.num_output_channels}]
        case "ToDtype":
            if str(transform.dtype) == "torch.float32":
                return [{"do": "floating", "scale": transform.scale}]
            unsupported = "is supported with dtype=torch.float32 only"
        case "ToImage" | "Identity":
            return []
    raise NotImplementedError(unsupported)


def _as_list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(map(int, value))
