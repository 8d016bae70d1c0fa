"""The diabetes table: what it holds, and that it trains."""

from __future__ import annotations

import torch

from src.data.diabetes import Diabetes
from tests.conftest import train


def test_diabetes_columns_and_split() -> None:
    data = Diabetes(batch_size=32)
    data.prepare_data()
    data.setup()
    assert [column.name for column in data.spec.columns][:4] == ["age", "sex", "bmi", "bp"]
    assert (data.spec.num_outputs, data.spec.classes) == (1, ())
    assert {stage: len(index) for stage, index in data.indices.items()} == {
        "train": 310,
        "val": 66,
        "test": 66,
    }
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, y.shape) == ((32, 10), (32, 1))
    assert torch.equal(y, data.samples.y[data.sample_numbers("train", 0, 0)])


def test_diabetes_trains() -> None:
    run = train("diabetes", "data=diabetes").run
    assert len(run.predict(run.data().samples.x[:3])["prediction"]) == 3
