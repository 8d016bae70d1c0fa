"""Regression measures in the target's unit what scikit-learn measures, names its columns, and trains."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from src.kindling.data.spec import Column, Spec
from src.tasks.regression import Regression
from tests.conftest import train

COLUMNS = tuple(Column(name) for name in "abcd")
VALUES = Spec(
    columns=COLUMNS,
    in_shape=(4,),
    num_outputs=1,
    kind="table",
    target_mean=(50.0,),
    target_std=(10.0,),
)


def test_regression_metrics_in_target_unit() -> None:
    torch.manual_seed(0)
    task = Regression(nn.Linear(4, 1), VALUES)
    x, y = torch.randn(60, 4), 50 + 10 * torch.randn(60, 1)
    for part in range(0, 60, 25):
        task.test_step((x[part : part + 25], y[part : part + 25]), 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    predicted = task(x).detach()
    assert values["test/mae"] == pytest.approx(sk.mean_absolute_error(y, predicted), rel=1e-5)
    assert values["test/rmse"] == pytest.approx(sk.root_mean_squared_error(y, predicted), rel=1e-5)
    assert values["test/r2"] == pytest.approx(sk.r2_score(y, predicted), rel=1e-4)
    assert values["test/mean_predictor_mae"] == pytest.approx(
        (y - 50).abs().mean().item(), rel=1e-5
    )
    assert values["test/loss"] == pytest.approx(
        ((predicted - y) / 10).square().mean().item(), rel=1e-4
    )


def test_predict_step_names_its_columns() -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, 1))
    columns = Regression(nn.Linear(4, 1), VALUES).predict_step(batch, 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "target": (5, 1),
        "prediction": (5, 1),
    }


def test_regression_trains() -> None:
    result = train("diabetes")
    assert type(result.run.task) is Regression
    assert {"val/loss", "val/mae", "test/loss", "test/mae", "test/mean_predictor_mae"} <= set(
        result.metrics
    )
