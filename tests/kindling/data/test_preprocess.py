"""The preprocessing that a task owns; tables are tested in tests/data/test_table.py, pretrained nets' own beside them."""

from __future__ import annotations

import torch

from src.kindling.data.preprocess import Standardize


def test_standardize_and_back() -> None:
    scale = Standardize((1.0, 2.0), (2.0, 4.0), dims=3)
    x = torch.tensor([1, 6], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert scale(x).flatten().tolist() == [0.0, 1.0]
    assert scale.inverse(scale(x)).flatten().tolist() == [1.0, 6.0]
    assert set(scale.state_dict()) == {"mean", "std"}
