"""Random transforms of whole training batches, on the training device, after preprocessing.

They are named in a config's `data.train_transforms`, beside torchvision's, which work on single samples in the
workers. Each draws from torch's generator, which is seeded for each batch (src/callbacks/seeding.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from src.data.base import BatchTransform
from src.errors import InputError


class MixUp(BatchTransform):
    """Blends each sample and its target with another of the batch.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412.

    Args:
        alpha: of the Beta distribution that the share is drawn from; larger blends more evenly.
    """

    mixes = True

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.alpha = _positive(alpha, "MixUp")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `(B, …)` and targets `(B, …)`."""
        share = _beta(self.alpha)
        other = torch.randperm(len(x), device=x.device)
        return torch.lerp(x[other], x, share), _blend(y, other, share)


class CutMix(BatchTransform):
    """Puts a rectangle of another image of the batch into each; the target is shared by area.

    Yun et al., CutMix, https://arxiv.org/abs/1905.04899.

    Args:
        alpha: of the Beta distribution that the area is drawn from.
    """

    mixes = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = _positive(alpha, "CutMix")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` and targets `(B, …)`."""
        _, _, height, width = x.shape
        side = math.sqrt(1 - _beta(self.alpha))
        row, column = torch.rand(2).tolist()
        top, bottom = (_clip(row * height + half * side * height, height) for half in (-0.5, 0.5))
        left, right = (_clip(column * width + half * side * width, width) for half in (-0.5, 0.5))
        other = torch.randperm(len(x), device=x.device)
        x = x.clone()
        x[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return x, _blend(y, other, share)


def _positive(alpha: float, name: str) -> float:
    if alpha <= 0:
        raise InputError(f"data.train_transforms: {name} needs an alpha above 0, got {alpha:g}")
    return alpha


def _beta(alpha: float) -> float:
    # Drawn on the CPU, whatever the device: a number that the host needs costs no synchronization there.
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _clip(place: float, size: int) -> int:
    return min(max(round(place), 0), size)


def _blend(y: Tensor, other: Tensor, share: float) -> Tensor:
    return torch.lerp(y[other], y, share)
