"""Random transforms of whole training batches, on the training device, after preprocessing.

They are named in a config's `data.train_transforms`, beside torchvision's, which work on single samples in the
workers. Each draws from torch's generator, which is seeded for each batch (src/callbacks/seeding.py).
"""

from __future__ import annotations

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
        self.alpha = _positive(alpha, "CutMix")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` and targets `(B, …)`."""
        B, _, H, W = x.shape
        side = (1 - _beta(self.alpha, x)).sqrt()
        row, column = torch.rand(2, B, device=x.device)
        top, bottom = ((H * (row + half * side)).clamp(0, H).round() for half in (-0.5, 0.5))
        left, right = ((W * (column + half * side)).clamp(0, W).round() for half in (-0.5, 0.5))
        rows, columns = torch.arange(H, device=x.device), torch.arange(W, device=x.device)
        inside = ((rows >= top[:, None]) & (rows < bottom[:, None]))[:, None, :, None] & (
            (columns >= left[:, None]) & (columns < right[:, None])
        )[:, None, None, :]  # B, 1, H, W
        other = torch.randperm(B, device=x.device)
        share = 1 - (bottom - top) * (right - left) / (H * W)
        return torch.where(inside, x[other], x), _blend(y, other, share)


def _positive(alpha: float, name: str) -> float:
    if alpha <= 0:
        raise InputError(f"data.train_transforms: {name} needs an alpha above 0, got {alpha:g}")
    return alpha


def _beta(alpha: float, x: Tensor) -> Tensor:
    """A draw from Beta(alpha, alpha) for each sample, `(B,)`."""
    concentration = torch.tensor(alpha, device=x.device)
    return torch.distributions.Beta(concentration, concentration).sample((len(x),))


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of each sample, and the rest of another."""
    return torch.lerp(x[other], x, share.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype))
