"""The tumours' table: what it holds, and that it trains."""

from __future__ import annotations

import torch

from src.data.breast_cancer import BreastCancer
from tests.conftest import train


def test_breast_cancer_columns_and_split() -> None:
    data = BreastCancer(batch_size=32)
    data.prepare_data()
    data.setup()
    assert (len(data.spec.columns), len(data.spec.classes)) == (30, 2)
    assert {stage: len(index) for stage, index in data.indices.items()} == {
        "train": 399,
        "val": 85,
        "test": 85,
    }
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, y.shape) == ((32, 30), (32,))
    assert torch.equal(y, data.samples.y[data.sample_numbers("train", 0, 0)])


def test_breast_cancer_trains() -> None:
    run = train("breast_cancer", "data=breast_cancer").run
    assert len(run.predict(run.data().samples.x[:3])["prediction"]) == 3
