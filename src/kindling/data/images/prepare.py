"""A picture as the run's test prepares it, from what an exported file says of it: Pillow's and numpy's work, no torch's.

src/export.py writes the steps and compares their result with the run's own; src/serving/ does them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import Fit, fit_to, plain

Array = np.ndarray[Any, Any]
Step = dict[str, Any]  # the name of a function below, as `do`, and its arguments


@dataclass(frozen=True)
class Preparation:
    """From an opened image to what the model takes.

    Attributes:
        channels: 1 for grey, 3 for colour.
        size: height and width of the common shape.
        fit: how an image comes to that shape.
        whole: whether it keeps its own size, for steps that crop or resize it.
        white: the largest value that a raw pixel can have.
        steps: what `data.test_transforms` do.
    """

    channels: int
    size: int
    fit: Fit
    whole: bool
    white: float
    steps: Sequence[Step] = ()

    def __call__(self, image: Image.Image) -> Array:
        """`(C, H, W)`, uint8 or float32."""
        image = plain(image, self.channels, None if self.whole else self.size)
        array = np.asarray(image if self.whole else fit_to(image, self.size, self.fit))
        x = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if self.white != 255:  # the training's pixels have another range than the file's
            x = x * np.float32(self.white / 255)
            x = x if self.white <= 1 else np.rint(x).astype(np.uint8)
        for step in self.steps:
            x = STEPS[step["do"]](x, **{name: value for name, value in step.items() if name != "do"})
        return np.ascontiguousarray(x)


# ---------------------------------------------------------------------------------------------------------------
# The steps, each from `(C, H, W)` to `(C, H, W)`


def resize(x: Array, size: Sequence[int], longest: int | None, how: str) -> Array:
    """To `(height, width)`, or the shorter side to a single number, the longer one to at most `longest`."""
    height, width = x.shape[1:]
    if len(size) == 1:
        short, long = size[0], int(size[0] * max(height, width) / min(height, width))
        if longest is not None and long > longest:
            short, long = int(longest * short / long), longest
        size = (long, short) if width <= height else (short, long)
    if tuple(size) == (height, width):
        return x
    if how == "NEAREST":  # Pillow's way of counting differs in some places
        rows, columns = ((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
                         for new, old in zip(size, (height, width), strict=True))  # fmt: skip
        return x[:, rows.astype(int)[:, None], columns.astype(int)]
    by = Image.Resampling[how]
    return np.stack([np.asarray(Image.fromarray(channel).resize((size[1], size[0]), by)) for channel in x])


def crop(x: Array, size: Sequence[int]) -> Array:
    """The middle, `(height, width)`; what is smaller gets a black border first."""
    lack = [max(0, wanted - side) for wanted, side in zip(size, x.shape[1:], strict=True)]
    x = pad(x, [lack[1] // 2, lack[0] // 2, (lack[1] + 1) // 2, (lack[0] + 1) // 2], 0)
    top, left = (round((side - wanted) / 2) for wanted, side in zip(size, x.shape[1:], strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


def pad(x: Array, border: Sequence[int], value: float) -> Array:
    """A border of one value: left, top, right, bottom."""
    left, top, right, bottom = border
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=value)


def grey(x: Array, channels: int) -> Array:
    """Luma, in one channel or three alike."""
    if len(x) == 3:
        weighed = x * np.array([0.2989, 0.587, 0.114], dtype=np.float32).reshape(3, 1, 1)
        x = (weighed[0] + weighed[1] + weighed[2])[None].astype(x.dtype)
    return np.repeat(x, channels, axis=0) if len(x) < channels else x


def floating(x: Array, scale: bool) -> Array:
    """float32; where it scales, a byte's range becomes 0 to 1."""
    return x.astype(np.float32) / np.float32(255 if scale and x.dtype == np.uint8 else 1)


STEPS: dict[str, Callable[..., Array]] = {
    "resize": resize, "crop": crop, "pad": pad, "grey": grey, "floating": floating}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# From torchvision's transforms


def steps_of(transforms: Iterable[Any]) -> list[Step]:
    """torchvision's transforms as steps.

    Raises:
        InputError: with a line for each that cannot be done here.
    """
    steps: list[Step] = []
    lines: list[str] = []
    for place, transform in enumerate(transforms):
        name = re.sub(r"\._\w+", "", type(transform).__module__) + f".{type(transform).__qualname__}"
        found = (
            _step(transform) if name.startswith(("torchvision.transforms.", "torch.nn.")) else "is not torchvision's"
        )
        if isinstance(found, str):
            lines.append(f"data.test_transforms[{place}]: {name} {found}; what serves the file has no "
                         f"torch: use Resize, CenterCrop, Pad, Grayscale or ToDtype, or export with --format pt2")  # fmt: skip
        else:
            steps += found
    if lines:
        raise InputError(lines)
    return steps


def _step(transform: Any) -> list[Step] | str:
    """One transform as steps, or why it cannot be."""
    match type(transform).__name__:
        case "Resize":
            given = getattr(transform.interpolation, "value", transform.interpolation)
            how = given.replace("-exact", "").upper()
            plain_too = how == "NEAREST" or transform.antialias
            if transform.size is None or given == "nearest" or not plain_too or how not in Image.Resampling.__members__:
                return f"with size={transform.size}, {given} and antialias={transform.antialias} is not done"
            return [{"do": "resize", "size": _numbers(transform.size), "longest": transform.max_size, "how": how}]
        case "CenterCrop":
            size = _numbers(transform.size)
            return [{"do": "crop", "size": size * 2 if len(size) == 1 else size}]
        case "Pad":
            border = _numbers(transform.padding)
            if transform.padding_mode != "constant" or not isinstance(transform.fill, int | float):
                return "is done with padding_mode=constant and one number to fill only"
            return [{"do": "pad", "border": border * (4 // len(border)), "value": transform.fill}]
        case "Grayscale":
            return [{"do": "grey", "channels": transform.num_output_channels}]
        case "ToDtype":
            if str(transform.dtype) != "torch.float32":
                return "is done with dtype=torch.float32 only"
            return [{"do": "floating", "scale": transform.scale}]
        case "ToImage" | "Identity":
            return []
    return "is not done"


def _numbers(given: Any) -> list[int]:
    return [given] if isinstance(given, int) else [int(number) for number in given]
