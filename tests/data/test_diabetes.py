"""The diabetes table: what it holds, and that it trains."""

from __future__ import annotations

import torch

from src.data.diabetes import Diabetes
from tests.conftest import train


def test_diabetes_is_what_it_says() -> None:
    data = Diabetes(batch_size=32)
    data.prepare_data()
    data.setup()
    assert [column.name for column in data.spec.columns][:4] == ["age", "sex", "bmi", "bp"]
    assert (data.spec.num_outputs, data.spec.classes) == (1, ())
    assert {stage: len(index) for stage, index in data.indices.items()} == {"train": 310, "val": 66, "test": 66}
    batch = next(iter(data.train_dataloader()))
    assert (batch.x.shape, batch.y.shape) == ((32, 10), (32, 1))
    assert torch.equal(batch.y, data.samples.y[batch.index])


def test_diabetes_trains() -> None:
    run = train("diabetes", "data=diabetes").run
    assert run.task(run.data().samples.x[:3]).shape == (3, run.spec.num_outputs)
