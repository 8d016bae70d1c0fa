"""Geometric transforms, composed into one resampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.kindling.data.augment.base import BatchTransform, check_probability
from src.kindling.data.augment.boxes import draw_offset, draw_sides, first_fitting
from src.kindling.data.masks import VOID


def compose(transforms: Sequence[BatchTransform]) -> list[BatchTransform]:
    """Compose consecutive geometric transforms into one."""
    composed: list[BatchTransform] = []
    for moves, run in itertools.groupby(
        transforms, lambda transform: isinstance(transform, Geometric)
    ):
        steps = list(run)
        composed += [Resample(steps)] if moves else steps
    return composed


class Geometric(BatchTransform):
    """A transform that moves pixels: an affine map of each sample, from output to input positions.

    Positions are in pixels from the image's center, x to the right and y downwards.
    """

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        """A draw for each sample, as matrices `(B, 3, 3)` over `(x, y, 1)`."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move images `(B, C, H, W)` and masks `(B, H, W)`; keep other targets."""
        B, _, H, W = x.shape
        return resample_both(x, y, self.maps(B, H, W, x.device))


class Resample(BatchTransform):
    """Geometric transforms, composed: images are read once, with bilinear interpolation."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move images `(B, C, H, W)` and masks `(B, H, W)`; keep other targets."""
        B, _, H, W = x.shape
        maps = torch.eye(3, device=x.device).expand(B, 3, 3)
        # Maps lead from output to input, so the last step's map comes first.
        for step in self.steps:
            maps = maps @ step.maps(B, H, W, x.device)
        return resample_both(x, y, maps)


def resample_both(x: Tensor, y: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Resample images, and masks `(B, H, W)` at the same positions; VOID outside."""
    if y.ndim != 3:
        return resample(x, maps), y
    # Shifted by one, so that VOID is 0, as is the area outside.
    numbers = (y + 1.0 - (VOID + 1.0) * (y == VOID)).to(x.dtype).unsqueeze(1)
    moved = resample(numbers, maps, mode="nearest").squeeze(1)
    return resample(x, maps), torch.where(moved == 0, VOID, moved - 1).to(y.dtype)


def resample(x: Tensor, maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Read images `(B, C, H, W)` at the positions given by the maps `(B, 3, 3)`; 0 outside."""
    _, _, H, W = x.shape
    # grid_sample counts positions from -1 to 1 over the image's width and height.
    scale = torch.tensor([W / 2, H / 2, 1.0], device=x.device)
    theta = (maps * scale / scale[:, None])[:, :2].to(x.dtype)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, mode=mode, padding_mode="zeros", align_corners=False)


class RandomHorizontalFlip(Geometric):
    """Mirrors left and right.

    Args:
        p: the share of samples that are mirrored.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(p, "RandomHorizontalFlip")

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        return _matrix(x_scale=1 - 2.0 * (torch.rand(B, device=device) < self.p))


class RandomVerticalFlip(Geometric):
    """Mirrors top and bottom.

    Args:
        p: the share of samples that are mirrored.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(p, "RandomVerticalFlip")

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        return _matrix(y_scale=1 - 2.0 * (torch.rand(B, device=device) < self.p))


class RandomAffine(Geometric):
    """Turns, shifts and scales about the center.

    Args:
        degrees: the largest turn to either side.
        translate: the largest shift, as shares of width and height.
        scale: the smallest and the largest magnification.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(
                f"expected scale as a smallest and a largest above 0, got {list(scale)}"
            )
        self.degrees, self.translate, self.scale = abs(degrees), translate, scale

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        angle, right, down = (2 * torch.rand(3, B, device=device) - 1).unbind()
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(B, device=device)
        # Whole pixels, as torchvision shifts.
        right, down = (
            (right * self.translate[0] * W).round(),
            (down * self.translate[1] * H).round(),
        )
        return affine(angle * math.radians(self.degrees), right, down, size)


class RandomRotation(RandomAffine):
    """Turns about the center.

    Args:
        degrees: the largest turn to either side.
    """

    def __init__(self, degrees: float) -> None:
        super().__init__(degrees=degrees)


class RandomCrop(Geometric):
    """Shifts by whole pixels, as a crop of the same size from the padded image does.

    Args:
        padding: pixels of 0 on each side; the largest shift.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"expected padding of at least 0, got {padding}")
        self.padding = padding

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        x, y = torch.randint(-self.padding, self.padding + 1, (2, B), device=device).float()
        return _matrix(x_shift=x, y_shift=y)


class RandomResizedCrop(Geometric):
    """Crops a box of whole pixels and enlarges it to the image's shape; drawn as in torchvision.

    Where no box fits in ten attempts, the crop is the largest central one within `ratio`.

    Args:
        scale: smallest and largest area of the crop, as a share of the image.
        ratio: smallest and largest width over height of the crop, in pixels.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                "expected a smallest and a largest above 0, "
                f"got scale {list(scale)}, ratio {list(ratio)}"
            )
        self.scale, self.ratio = scale, ratio

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        widths, heights = draw_sides(B, H * W, self.scale, self.ratio, device)
        fits = (widths > 0) & (widths <= W) & (heights > 0) & (heights <= H)
        found, (width, height) = first_fitting(fits, widths, heights)
        left, top = draw_offset(W - width), draw_offset(H - height)
        central_width, central_height = self._central(H, W)
        width = torch.where(found, width, central_width)
        height = torch.where(found, height, central_height)
        left = torch.where(found, left, (W - central_width) // 2)
        top = torch.where(found, top, (H - central_height) // 2)
        # From the image's center to the crop's center.
        return _matrix(width / W, height / H, left + (width - W) / 2, top + (height - H) / 2)

    def _central(self, H: int, W: int) -> tuple[int, int]:
        """Width and height of the crop where no attempt fits."""
        low, high = self.ratio
        return min(W, max(1, round(H * high))), min(H, max(1, round(W / low)))


def affine(angle: Tensor, right: Tensor, down: Tensor, size: Tensor) -> Tensor:
    """Return maps `(B, 3, 3)` of a clockwise rotation (radians), a scale, then a shift (pixels)."""
    turn = torch.zeros(len(angle), 3, 3, device=angle.device)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos() / size
    turn[:, 0, 1], turn[:, 1, 0] = angle.sin() / size, -angle.sin() / size
    turn[:, 2, 2] = 1
    return turn @ _matrix(x_shift=-right, y_shift=-down)


def _matrix(
    x_scale: Tensor | None = None,
    y_scale: Tensor | None = None,
    x_shift: Tensor | None = None,
    y_shift: Tensor | None = None,
) -> Tensor:
    given = next(value for value in (x_scale, y_scale, x_shift, y_shift) if value is not None)
    matrix = torch.eye(3, device=given.device).repeat(len(given), 1, 1)
    for value, row, column in ((x_scale, 0, 0), (y_scale, 1, 1), (x_shift, 0, 2), (y_shift, 1, 2)):
        if value is not None:
            matrix[:, row, column] = value
    return matrix
