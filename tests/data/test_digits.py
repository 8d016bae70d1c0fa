"""The digits: what they hold, and that they train."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from src.data.digits import Digits
from tests.conftest import train


def test_digits_classes_and_split() -> None:
    data = Digits()
    data.prepare_data()
    data.setup()
    assert data.spec.raw_shape == (1, 8, 8)
    assert data.spec.classes == tuple("0123456789")
    assert {stage: len(index) for stage, index in data.indices.items()} == {
        "train": 1257,
        "val": 270,
        "test": 270,
    }
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, int(x.max())) == ((64, 1, 8, 8), torch.uint8, 16)
    assert torch.equal(y, data.samples.y[data.sample_numbers("train", 0, 0)])


def test_some_of_the_digits_on_a_larger_canvas() -> None:
    plain, data = Digits(), Digits(classes=(7, 3), canvas=16)
    for each in (plain, data):
        each.prepare_data()
        each.setup()
    assert (data.spec.in_shape, data.spec.classes) == ((1, 16, 16), ("7", "3"))
    sevens = plain.samples.x[plain.samples.y == 7]
    placed = data.samples.x[data.samples.y == 0]
    assert torch.equal(
        placed.sum(dim=(1, 2, 3)), sevens.sum(dim=(1, 2, 3))
    )  # nothing of them is cut off
    rows = [int(image.sum(dim=(0, 2)).nonzero()[0]) for image in placed]
    assert min(rows) == 0
    assert max(rows) == 8
    others = Digits(classes=(7, 9), canvas=16)
    others.setup()
    assert torch.equal(others.samples.x[others.samples.y == 0], placed)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"classes": (1, 1)}, "classes: expected different digits, got [1, 1]"),
        ({"classes": (1, 10)}, "classes: expected different digits, got [1, 10]"),
        ({"canvas": 7}, "canvas: expected at least 8, which the digits need, got 7"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Digits(**arguments)


def test_digits_train() -> None:
    run = train("digits", "data=digits").run
    assert len(run.predict(run.data().samples.x[:3])["prediction"]) == 3
