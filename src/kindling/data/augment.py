"""Random transforms of whole training batches, on the training device, after preprocessing.

A config lists them in `data.train_transforms`, next to torchvision's, which transform single
samples in the workers. Names, arguments and distributions are torchvision's. Each sample has its
own draw from torch's generator, which is seeded for each batch. Empty areas are 0, the mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data import augment_functional as F
from src.kindling.data.preprocess import BatchTransform, Standardize
from src.kindling.data.spec import Spec


def require(valid: bool, expected: str, given: Any) -> None:
    if not valid:
        raise ValueError(f"expected {expected}, got {given}")


class Geometric(BatchTransform):
    """Moves pixels by an affine map of each sample, from output to input positions.

    Positions are in pixels from the image's center, x to the right and y downwards.
    """

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        """Draw a map for each sample: matrices `(B, 3, 3)` over `(x, y, 1)`."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move images `(B, C, H, W)` and masks `(B, H, W)`; keep other targets."""
        B, _, H, W = x.shape
        maps = self.maps(B, H, W, x.device)
        return F.resample(x, maps), F.resample_masks(y, maps) if y.ndim == 3 else y


class Resample(Geometric):
    """Geometric transforms composed into one, so that images are interpolated once."""

    def __init__(self, steps: Sequence[Geometric]) -> None:
        super().__init__()
        self.steps = steps

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        maps = torch.eye(3, device=device)
        for step in self.steps:  # from output to input, so the last step's map comes first
            maps = maps @ step.maps(B, H, W, device)
        return maps


def compose(transforms: Sequence[BatchTransform]) -> list[BatchTransform]:
    """Compose consecutive geometric transforms into one."""
    composed: list[BatchTransform] = []
    for moves, group in itertools.groupby(transforms, lambda one: isinstance(one, Geometric)):
        steps: list[Any] = list(group)
        composed += [Resample(steps)] if moves else steps
    return composed


class _RandomFlip(Geometric):
    axis: int

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        require(0 <= p <= 1, "p from 0 to 1", p)
        self.p = p

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        scale = torch.ones(B, 2, device=device)
        scale[:, self.axis] -= 2.0 * (torch.rand(B, device=device) < self.p)
        return F.build_maps(scale.diag_embed(), torch.zeros_like(scale))


class RandomHorizontalFlip(_RandomFlip):
    """Mirrors left and right in a share `p` of the samples."""

    axis = 0


class RandomVerticalFlip(_RandomFlip):
    """Mirrors top and bottom in a share `p` of the samples."""

    axis = 1


class RandomAffine(Geometric):
    """Rotates, shifts and scales about the center.

    Args:
        degrees: the largest rotation to either side.
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
        require(0 < scale[0] <= scale[1], "scale as a smallest and a largest above 0", list(scale))
        self.degrees, self.translate, self.scale = abs(degrees), translate, scale

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        angle, right, down = 2 * torch.rand(3, B, device=device) - 1
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(B, device=device)
        shift = torch.stack([right * self.translate[0] * W, down * self.translate[1] * H], dim=1)
        return F.affine(angle * math.radians(self.degrees), shift.round(), size)


class RandomRotation(RandomAffine):
    """Rotates about the center, by at most `degrees` to either side."""

    def __init__(self, degrees: float) -> None:
        super().__init__(degrees=degrees)


class RandomCrop(Geometric):
    """Shifts by whole pixels: a crop of the image's own shape from a padded image.

    Args:
        padding: pixels of 0 on each side; the largest shift.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        require(padding >= 0, "padding of at least 0", padding)
        self.padding = padding

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        shift = torch.randint(-self.padding, self.padding + 1, (2, B), device=device)
        return F.build_maps(torch.eye(2, device=device), shift.T)


class RandomResizedCrop(Geometric):
    """Crops a box of whole pixels and enlarges it to the image's shape.

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
        require(0 < scale[0] <= scale[1] <= 1, "scale as two shares above 0", list(scale))
        require(0 < ratio[0] <= ratio[1], "ratio as two numbers above 0", list(ratio))
        self.scale, self.ratio = scale, ratio

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        image = torch.tensor([W, H], device=device)
        fits, box, offset = F.draw_boxes(B, image, self.scale, self.ratio, smallest=1)
        low, high = self.ratio
        sides = min(W, max(1, round(H * high))), min(H, max(1, round(W / low)))
        central = torch.tensor(sides, device=device)
        box = torch.where(fits, box, central)
        offset = torch.where(fits, offset, (image - central) // 2)
        # From the image's center to the crop's center.
        return F.build_maps((box / image).diag_embed(), offset + (box - image) / 2)


class RandomErasing(BatchTransform):
    """Sets a rectangle to 0, the mean; where none fits in ten attempts, the image stays as it is.

    Source: Zhong et al., https://arxiv.org/abs/1708.04896.

    Args:
        p: the share of samples in which one is set.
        scale: smallest and largest area of the rectangle, as a share of the image.
        ratio: smallest and largest height over width of the rectangle, in pixels.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
    ) -> None:
        super().__init__()
        require(0 <= p <= 1, "p from 0 to 1", p)
        self.p, self.scale, self.ratio = p, scale, ratio

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        B, _, H, W = x.shape
        image = torch.tensor([H, W], device=x.device)
        fits, box, offset = F.draw_boxes(B, image, self.scale, self.ratio, smallest=0)
        erased = fits.squeeze(1) & (torch.rand(B, device=x.device) < self.p)
        inside = F.mask_boxes(H, W, offset, offset + box) & erased[:, None, None, None]
        return x.masked_fill(inside, 0.0), y


class ColorJitter(BatchTransform):
    """Changes brightness, contrast and saturation, in this order; for hue, use torchvision's.

    Without torchvision's clamping, its random order would make no difference.

    Args:
        brightness, contrast, saturation: the factor is drawn from max(0, 1 - value) to 1 + value.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
    ) -> None:
        super().__init__()
        self.strengths = [brightness, contrast, saturation]
        require(min(self.strengths) >= 0, "values of at least 0", self.strengths)

    def fit(self, spec: Spec) -> None:
        """Colors are computed on raw values, so standardization is undone."""
        if spec.kind != "image":
            raise InputError("data.train_transforms: ColorJitter is for images; remove it")
        self.standardize = Standardize(spec.mean, spec.std, dims=3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        strengths = x.new_tensor(self.strengths)[:, None]
        low, high = (1 - strengths).clamp(min=0), 1 + strengths
        factors = low + (high - low) * torch.rand(3, len(x), device=x.device)
        return self.standardize(F.jitter(self.standardize.inverse(x), *factors)), y


class MixUp(BatchTransform):
    """Blends each sample and its target with another of the batch.

    Source: Zhang et al., https://arxiv.org/abs/1710.09412.

    Args:
        alpha: of the Beta distribution that the share is drawn from; larger blends more evenly.
    """

    mixes = True

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        require(alpha > 0, "alpha above 0", alpha)
        self.alpha = alpha

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        share = F.draw_beta(self.alpha, len(x), x.device)
        other = torch.randperm(len(x), device=x.device)
        return F.blend(x, other, share), F.blend(y, other, share)


class CutMix(MixUp):
    """Puts a rectangle of another image of the batch into each; the target is shared by area.

    Source: Yun et al., https://arxiv.org/abs/1905.04899.

    Args:
        alpha: of the Beta distribution that the area is drawn from.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        B, _, H, W = x.shape
        image = torch.tensor([H, W], device=x.device)
        # As torchvision draws it: whole pixels to both sides of a pixel's corner.
        half = (1 - F.draw_beta(self.alpha, B, x.device)).sqrt() / 2
        half = (half[:, None] * image).floor()
        corner = (torch.rand(2, B, device=x.device).T * image).floor()
        start, end = (corner - half).clamp(min=0), torch.minimum(corner + half, image)
        other = torch.randperm(B, device=x.device)
        share = 1 - (end - start).prod(dim=1) / (H * W)
        mixed = torch.where(F.mask_boxes(H, W, start, end), x[other], x)
        return mixed, F.blend(y, other, share)
