"""Prepare an image as the run's test does, from the steps in an exported file, without torch.

The export writes the steps and compares their result with the run's own; the server repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import AliasChoices, ConfigDict, Field
from pydantic.dataclasses import dataclass

from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import ResizeMode, convert, make_square

Array = np.ndarray[Any, Any]
Side = Annotated[int, Field(ge=1, le=10_000)]  # pixels
Border = Annotated[int, Field(ge=0, le=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
STRICT = ConfigDict(extra="forbid")

# The steps, each from `(C, H, W)` to `(C, H, W)`. The names and fields stand in exported files.


@dataclass(frozen=True, config=STRICT)
class Resize:
    """Resize to `(height, width)`, or the shorter side to one number, the longer to a maximum."""

    size: Annotated[list[Side], Field(min_length=1, max_length=2)]
    longest: Side | None
    how: Literal["NEAREST", "BILINEAR", "BICUBIC"]
    do: Literal["resize"] = "resize"

    def __call__(self, x: Array) -> Array:
        height, width = x.shape[1:]
        rows, columns = self.size[0], self.size[-1]
        if len(self.size) == 1:
            short, long = rows, int(rows * max(height, width) / min(height, width))
            if self.longest is not None and long > self.longest:
                short, long = int(self.longest * short / long), self.longest
            rows, columns = (long, short) if width <= height else (short, long)
        if (rows, columns) == (height, width):
            return x
        if self.how == "NEAREST":  # Pillow rounds differently in some places
            down = (np.arange(rows, dtype=np.float32) + 0.5) * np.float32(height / rows)
            across = (np.arange(columns, dtype=np.float32) + 0.5) * np.float32(width / columns)
            return x[:, down.astype(int)[:, None], across.astype(int)]
        images = [Image.fromarray(channel) for channel in x]
        resample = Image.Resampling[self.how]
        return np.stack([np.asarray(image.resize((columns, rows), resample)) for image in images])


@dataclass(frozen=True, config=STRICT)
class Pad:
    """Add a border of one value: left, top, right, bottom."""

    border: tuple[Border, Border, Border, Border]
    value: Finite
    do: Literal["pad"] = "pad"

    def __call__(self, x: Array) -> Array:
        left, top, right, bottom = self.border
        return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=self.value)


@dataclass(frozen=True, config=STRICT)
class Crop:
    """Crop the center, `(height, width)`; a smaller image gets a black border first."""

    size: tuple[Side, Side]
    do: Literal["crop"] = "crop"

    def __call__(self, x: Array) -> Array:
        height, width = self.size
        down, across = max(0, height - x.shape[1]), max(0, width - x.shape[2])
        x = Pad((across // 2, down // 2, (across + 1) // 2, (down + 1) // 2), 0)(x)
        top, left = round((x.shape[1] - height) / 2), round((x.shape[2] - width) / 2)
        return x[:, top : top + height, left : left + width]


@dataclass(frozen=True, config=STRICT)
class ToGray:
    """Luma, in one channel or three equal ones."""

    channels: Literal[1, 3]
    do: Literal["grey"] = "grey"

    def __call__(self, x: Array) -> Array:
        if len(x) == 3:
            weights = np.array([0.2989, 0.587, 0.114], dtype=np.float32).reshape(3, 1, 1)
            red, green, blue = x * weights
            x = (red + green + blue)[None].astype(x.dtype)
        return np.repeat(x, self.channels, axis=0) if len(x) < self.channels else x


@dataclass(frozen=True, config=STRICT)
class ToFloat:
    """float32; with scale, 0 to 255 of a byte become 0 to 1."""

    scale: bool
    do: Literal["floating"] = "floating"

    def __call__(self, x: Array) -> Array:
        divisor = 255 if self.scale and x.dtype == np.uint8 else 1
        return x.astype(np.float32) / np.float32(divisor)


Step = Annotated[Resize | Crop | Pad | ToGray | ToFloat, Field(discriminator="do")]


@dataclass(frozen=True, config=STRICT)
class Preparation:
    """From an opened image to the model's input. The names of the fields stand in exported files.

    Attributes:
        channels: 1 for gray, 3 for color.
        size: height and width of the common shape.
        fit: how an image becomes square, `data.resize_mode`.
        whole: whether it keeps its own size, for steps that crop or resize it.
        max_value: the largest value of a raw pixel; an earlier version's files name it `white`.
        steps: those of the test transforms.
    """

    channels: Literal[1, 3]
    size: Side
    fit: ResizeMode
    whole: bool
    max_value: Annotated[Finite, Field(gt=0, validation_alias=AliasChoices("max_value", "white"))]
    steps: Annotated[list[Step], Field(max_length=20)] = Field(default_factory=list)

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
            x = step(x)
        return np.ascontiguousarray(x)


RESAMPLING: dict[str, Any] = {
    "nearest-exact": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
}


def steps_of(transforms: Iterable[Any]) -> list[Step]:
    """torchvision's transforms as steps; refuses those that cannot be done without torch."""
    steps: list[Step] = []
    lines: list[str] = []
    remedy = "use Resize, CenterCrop, Pad, Grayscale or ToDtype, or export with --format pt2"
    for i, transform in enumerate(transforms):
        module = re.sub(r"\._\w+", "", type(transform).__module__)
        name = f"{module}.{type(transform).__qualname__}"
        try:
            if not name.startswith(("torchvision.transforms.", "torch.nn.")):
                raise NotImplementedError("is not torchvision's")
            steps += _steps_of_transform(transform)
        except NotImplementedError as error:
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
                return [Resize(size, transform.max_size, how)]
            options = f"size={transform.size}, {mode} and antialias={transform.antialias}"
            unsupported = f"with {options} is not supported"
        case "CenterCrop":
            size = _as_list(transform.size)
            return [Crop(size * 2 if len(size) == 1 else size)]
        case "Pad":
            border, fill = _as_list(transform.padding), transform.fill
            if transform.padding_mode == "constant" and isinstance(fill, int | float):
                return [Pad(border * (4 // len(border)), fill)]
            unsupported = "is supported with padding_mode=constant and one fill value"
        case "Grayscale":
            return [ToGray(transform.num_output_channels)]
        case "ToDtype":
            if str(transform.dtype) == "torch.float32":
                return [ToFloat(transform.scale)]
            unsupported = "is supported with dtype=torch.float32 only"
        case "ToImage" | "Identity":
            return []
    raise NotImplementedError(unsupported)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) else list(map(int, value))
