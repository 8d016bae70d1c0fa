"""Metric names of any style become one."""

from __future__ import annotations

import math

import pytest

from src.kindling.runs.metric_names import canonical_name, find_limits, is_share


@pytest.mark.parametrize(
    ("logged", "canonical"),
    [
        ("val/loss", "val/loss"),
        ("val_loss", "val/loss"),
        ("valid_loss", "val/loss"),
        ("validation/loss", "val/loss"),
        ("val_loss_epoch", "val/loss"),
        ("val/loss_epoch", "val/loss"),
        ("val_loss_epoch/dataloader_idx_0", "val/loss/dataloader_idx_0"),
        ("val_loss/dataloader_idx_1", "val/loss/dataloader_idx_1"),
        ("training_top_5", "train/top_5"),
        ("train_loss_step", "train/batch_loss"),
        ("train/batch_loss", "train/batch_loss"),
        ("test/f1/cat", "test/f1/cat"),
        ("loss/val", "val/loss"),
        ("loss/valid_epoch", "val/loss"),
        ("sub_loss/val_dur_loss", "sub_loss/val_dur_loss"),
        ("lr", "lr"),
        ("epoch", "epoch"),
        ("value_loss", "value_loss"),
        ("trainable", "trainable"),
    ],
)
def test_canonical_name(logged: str, canonical: str) -> None:
    assert canonical_name(logged) == canonical


def test_limits_of_errors_and_r2() -> None:
    assert find_limits("val/mae_height") == (0, math.inf)
    assert find_limits("test_MeanSquaredError_rmse") == (0, math.inf)
    assert find_limits("r2") == find_limits("test/r2_height") == (-math.inf, 1)
    for name in ("loss", "accuracy", "neg_mae", "mae_r2"):
        assert find_limits(name) == (-math.inf, math.inf)
    assert not is_share("r2_accuracy")  # R² of a column of that name
