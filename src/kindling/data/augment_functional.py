"""What the batch transforms of augment.py do with tensors, given the draw of each sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from src.kindling.data.masks import VOID

GRAY = (0.2989, 0.587, 0.114)  # weights of red, green and blue in the luma, as in torchvision
ATTEMPTS = 10  # to draw a box that fits into the image, as in torchvision


def resample(x: Tensor, maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Read images `(B, C, H, W)` at the positions given by the maps `(B, 3, 3)`; 0 outside."""
    _, _, H, W = x.shape
    # grid_sample counts positions from -1 to 1 over the image's width and height.
    scale = torch.tensor([W / 2, H / 2, 1.0], device=x.device)
    theta = (maps * scale / scale[:, None])[:, :2].to(x.dtype)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, mode=mode, padding_mode="zeros", align_corners=False)


def resample_masks(y: Tensor, maps: Tensor) -> Tensor:
    """Read masks `(B, H, W)` at the nearest pixels; VOID outside."""
    shifted = torch.where(y == VOID, 0.0, y + 1.0)  # so that VOID is 0, as is the area outside
    moved = resample(shifted.unsqueeze(1), maps, mode="nearest").squeeze(1)
    return torch.where(moved == 0, VOID, moved - 1).to(y.dtype)


def build_maps(linear: Tensor, shift: Tensor) -> Tensor:
    """Maps `(B, 3, 3)` from their linear parts `(B, 2, 2)` and shifts `(B, 2)` in pixels."""
    maps = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    maps[:, :2, :2] = linear
    maps[:, :2, 2] = shift
    return maps


def affine(angle: Tensor, shift: Tensor, size: Tensor) -> Tensor:
    """Maps `(B, 3, 3)` of a clockwise rotation (radians), a scale, then a shift `(B, 2)`."""
    cos, sin = angle.cos() / size, angle.sin() / size
    turn = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
    return build_maps(turn, (turn @ -shift.unsqueeze(-1)).squeeze(-1))


def draw_boxes(
    B: int, image: Tensor, scale: tuple[float, float], ratio: tuple[float, float], smallest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a box of whole pixels for each sample: the first of ten attempts that fits.

    Args:
        image: its two sides `(2,)`, in the order in which `ratio` divides them.
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest ratio of the first side to the second; drawn on a log scale.
        smallest: the smallest side, 0 or 1; the largest is the image's, less one for 0.

    Returns:
        Whether one fits `(B, 1)`, its sides `(B, 2)` and its offset in the image `(B, 2)`.
    """
    share, exponent = torch.rand(2, ATTEMPTS, B, device=image.device)
    area = image.prod() * (scale[0] + (scale[1] - scale[0]) * share)
    aspect = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * exponent).exp()
    sides = torch.stack([area * aspect, area / aspect], dim=-1).sqrt().round()  # ATTEMPTS, B, 2
    fits = ((sides >= smallest) & (sides < image + smallest)).all(dim=-1)
    first = fits.int().argmax(dim=0)  # 0 where none fits
    box = sides[first, torch.arange(B, device=image.device)]
    # From 0 to the free pixels, both included, with equal probability.
    offset = (torch.rand(2, B, device=image.device).T * (image - box + 1)).floor()
    return fits.any(dim=0).unsqueeze(1), box, offset


def mask_boxes(H: int, W: int, start: Tensor, end: Tensor) -> Tensor:
    """Mask a box of each sample, `(B, 1, H, W)` bool, from its borders `(B, 2)`: row, column."""
    rows = torch.arange(H, device=start.device)
    columns = torch.arange(W, device=start.device)
    high = (rows >= start[:, :1]) & (rows < end[:, :1])
    wide = (columns >= start[:, 1:]) & (columns < end[:, 1:])
    return high[:, None, :, None] & wide[:, None, None, :]


def jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Blend raw images `(B, C, H, W)` with black, their mean gray and their gray pixels.

    The factors are `(B,)`. Values are not clamped.
    """
    x = x * brightness[:, None, None, None]
    x = torch.lerp(to_gray(x).mean(dim=(2, 3), keepdim=True), x, contrast[:, None, None, None])
    return torch.lerp(to_gray(x), x, saturation[:, None, None, None])


def to_gray(x: Tensor) -> Tensor:
    """The luma of RGB images, the mean of other channels: `(B, 1, H, W)`."""
    if x.shape[1] != 3:
        return x.mean(dim=1, keepdim=True)
    return (x * x.new_tensor(GRAY)[:, None, None]).sum(dim=1, keepdim=True)


def draw_beta(alpha: float, B: int, device: torch.device) -> Tensor:
    """A draw from Beta(alpha, alpha) for each sample, `(B,)`."""
    concentration = torch.tensor(alpha, device=device)
    return torch.distributions.Beta(concentration, concentration).sample((B,))


def blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of each sample, and the rest of another."""
    return torch.lerp(x[other], x, share.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype))
