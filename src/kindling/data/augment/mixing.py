"""Transforms that mix the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.augment.base import BatchTransform
from src.kindling.data.augment.boxes import inside


class MixUp(BatchTransform):
    """Blends each sample and its target with another of the batch.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412.

    Args:
        alpha: of the Beta distribution that the share is drawn from; larger blends more evenly.
    """

    mixes = True

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha, "MixUp")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `(B, …)` and targets `(B, …)`."""
        share = _beta(self.alpha, x)
        other = torch.randperm(len(x), device=x.device)
        return _blend(x, other, share), _blend(y, other, share)


class CutMix(BatchTransform):
    """Puts a rectangle of another image of the batch into each; the target is shared by area.

    Yun et al., CutMix, https://arxiv.org/abs/1905.04899.

    Args:
        alpha: of the Beta distribution that the area is drawn from.
    """

    mixes = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = check_alpha(alpha, "CutMix")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` and targets `(B, …)`."""
        B, _, H, W = x.shape
        # As torchvision draws it: whole pixels to both sides of a pixel's corner.
        half = (1 - _beta(self.alpha, x)).sqrt() / 2
        row, column = torch.rand(2, B, device=x.device)
        row, column = (row * H).floor(), (column * W).floor()
        high, wide = (half * H).floor(), (half * W).floor()
        top, bottom = (row - high).clamp(min=0), (row + high).clamp(max=H)
        left, right = (column - wide).clamp(min=0), (column + wide).clamp(max=W)
        other = torch.randperm(B, device=x.device)
        share = 1 - (bottom - top) * (right - left) / (H * W)
        return torch.where(inside(H, W, top, bottom, left, right), x[other], x), _blend(
            y, other, share
        )


def _beta(alpha: float, x: Tensor) -> Tensor:
    """A draw from Beta(alpha, alpha) for each sample, `(B,)`."""
    concentration = torch.tensor(alpha, device=x.device)
    return torch.distributions.Beta(concentration, concentration).sample((len(x),))


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of each sample, and the rest of another."""
    return torch.lerp(x[other], x, share.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype))


def check_alpha(alpha: float, name: str) -> float:
    if alpha <= 0:
        raise InputError(f"data.train_transforms: {name} needs an alpha above 0, got {alpha:g}")
    return alpha
