"""Batch transforms: a draw of its own for each sample, targets that say how much of each is there."""

from __future__ import annotations

import pytest
import torch

from src.augment import CutMix, MixUp
from src.errors import InputError
from tests.conftest import train


def batch(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are constant, and whose targets are that constant: so the mean says the share."""
    values = torch.rand(size)
    return values[:, None, None, None].expand(size, 2, 10, 12).clone(), values[:, None]


def test_mixup_blends_samples_and_targets_alike() -> None:
    torch.manual_seed(0)
    x, y = batch()
    mixed, targets = MixUp(alpha=1.0)(x, y)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets[:, 0], atol=1e-6)
    shares = ((targets - y) / y).flatten()
    assert len(shares.unique()) > 50  # each its own


def test_cutmix_shares_the_target_by_area() -> None:
    torch.manual_seed(0)
    x, y = batch()
    mixed, targets = CutMix()(x, y)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets[:, 0], atol=1e-5)
    for image, original in zip(mixed, x, strict=True):
        assert set(image.unique().tolist()) <= {*original.unique().tolist(), *x.unique().tolist()}
        assert len(image.unique()) <= 2


def test_an_alpha_has_to_be_positive() -> None:
    with pytest.raises(InputError, match="data.train_transforms: MixUp needs an alpha above 0, got 0"):
        MixUp(alpha=0)


def test_training_with_mixed_targets() -> None:
    result = train("digits", "data.train_transforms=[{_target_: src.augment.MixUp}, {_target_: src.augment.CutMix}]")
    assert 0 < result.metrics["val/loss"] < 10
