"""The digits: what they hold, and that they train."""

from __future__ import annotations

import torch

from src.data.digits import Digits
from tests.conftest import train


def test_digits_are_what_they_say() -> None:
    data = Digits()
    data.prepare_data()
    data.setup()
    assert data.spec.raw_shape == (1, 8, 8)
    assert data.spec.classes == tuple("0123456789")
    assert {stage: len(index) for stage, index in data.indices.items()} == {"train": 1257, "val": 270, "test": 270}
    batch = next(iter(data.train_dataloader()))
    assert (batch.x.shape, batch.x.dtype, int(batch.x.max())) == ((64, 1, 8, 8), torch.uint8, 16)
    assert torch.equal(batch.y, data.samples.y[batch.index])


def test_digits_train() -> None:
    run = train("digits", "data=digits").run
    assert run.task(run.data().samples.x[:3]).shape == (3, run.spec.num_outputs)
