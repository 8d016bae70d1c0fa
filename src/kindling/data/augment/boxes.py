"""Rectangles that are drawn in images, with torchvision's distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ATTEMPTS = 10  # to draw a box that fits into the image, as torchvision has it


def draw_sides(
    B: int,
    pixels: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw sides of boxes in whole pixels, `(ATTEMPTS, B)` each.

    Args:
        B: number of samples.
        pixels: the image's area.
        scale: smallest and largest area of a box, as a share of the image.
        ratio: smallest and largest ratio of the first side to the second; drawn on a log scale.
        device: of the result.
    """
    area, log_ratio = torch.rand(2, ATTEMPTS, B, device=device)
    area = pixels * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * log_ratio).exp()
    return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def first_fitting(fits: Tensor, *sides: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Pick each sample's first attempt that fits.

    Args:
        fits: `(ATTEMPTS, B)`.
        sides: values of the attempts, `(ATTEMPTS, B)` each.

    Returns:
        Whether any attempt fits, `(B,)`, and the values of the first that does (else of the first).
    """
    first = fits.int().argmax(0, keepdim=True)
    return fits.any(0), [side.gather(0, first)[0] for side in sides]


def draw_offset(free: Tensor) -> Tensor:
    """Draw whole numbers from 0 to `free`, both included, with equal probability; `(B,)`."""
    return (torch.rand_like(free) * (free + 1)).floor()


def inside(H: int, W: int, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Mask each sample's rectangle: `(B, 1, H, W)` bool from borders `(B,)` in pixels."""
    rows, columns = torch.arange(H, device=top.device), torch.arange(W, device=top.device)
    high = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return high[:, None, :, None] & wide[:, None, None, :]
