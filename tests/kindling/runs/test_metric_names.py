"""Metric names of any style become one."""

from __future__ import annotations

import pytest

from src.kindling.runs.metric_names import canonical_name


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
        ("lr", "lr"),
        ("epoch", "epoch"),
        ("value_loss", "value_loss"),
        ("trainable", "trainable"),
    ],
)
def test_canonical_name(logged: str, canonical: str) -> None:
    assert canonical_name(logged) == canonical
