"""Regression measures in the target's unit what scikit-learn measures, names its columns, and trains."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from src.data.batch import Batch
from src.data.spec import Column, Spec
from src.errors import InputError
from src.predictions import predict
from src.report import bootstrap
from src.run import load_run
from src.tasks.regression import Regression, RegressionScores
from tests.conftest import train

COLUMNS = tuple(Column(name) for name in "abcd")
VALUES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=1, kind="table", target_mean=(50.0,),
              target_std=(10.0,))  # fmt: skip


def test_regression_measures_in_the_targets_unit() -> None:
    torch.manual_seed(0)
    task = Regression(nn.Linear(4, 1), VALUES)
    x, y = torch.randn(60, 4), 50 + 10 * torch.randn(60, 1)
    for part in range(0, 60, 25):
        task.test_step(Batch(x[part : part + 25], y[part : part + 25], torch.arange(25), (0, 0)), 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    predicted = task(x).detach()
    assert values["test/mae"] == pytest.approx(sk.mean_absolute_error(y, predicted), rel=1e-5)
    assert values["test/rmse"] == pytest.approx(sk.root_mean_squared_error(y, predicted), rel=1e-5)
    assert values["test/r2"] == pytest.approx(sk.r2_score(y, predicted), rel=1e-4)
    assert values["test/mean_predictor_mae"] == pytest.approx((y - 50).abs().mean().item(), rel=1e-5)
    assert values["test/loss"] == pytest.approx(((predicted - y) / 10).square().mean().item(), rel=1e-4)


def test_predict_step_names_its_columns() -> None:
    batch = Batch(torch.randn(5, 4), torch.zeros(5, 1), torch.arange(5), (0, 0))
    columns = Regression(nn.Linear(4, 1), VALUES).predict_step(batch, 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "index": (5,), "target": (5, 1), "prediction": (5, 1)}  # fmt: skip


def test_regression_trains() -> None:
    result = train("diabetes")
    assert type(result.run.task) is Regression
    assert {"val/loss", "val/mae", "test/loss", "test/mae", "test/mean_predictor_mae"} <= set(result.metrics)


# Numbers that float32 sums cannot hold


def scores(predicted: np.ndarray, target: np.ndarray, mean: float) -> dict[str, float]:
    """The scores of float32 predictions and targets `(N,)`, in two parts."""
    metric = RegressionScores(("value",), (mean,))
    for rows in (slice(None, 3), slice(3, None)):
        outputs, targets = (torch.from_numpy(values[rows, None]) for values in (predicted, target))
        if len(targets):
            metric.update(outputs, targets)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("mean", "std"), [(0, 1e-3), (1e4, 1), (101_325, 30), (0, 1e-23), (-1e6, 1), (0, 1e25), (5, 2)]
)
@pytest.mark.parametrize("count", [2, 3, 500])
def test_scores_are_those_of_scikit_learn_at_any_scale(mean: float, std: float, count: int) -> None:
    generator = np.random.default_rng(count)
    values = mean + std * generator.standard_normal((1000 + count, 2)) @ [[1, 0.7], [0, 0.7]]
    target, predicted = values[1000:, 0].astype(np.float32), values[1000:, 1].astype(np.float32)
    found = scores(predicted, target, float(values[:1000, 0].mean()))
    exact = target.astype(float), predicted.astype(float)
    assert found["r2"] == pytest.approx(sk.r2_score(*exact), rel=1e-5, abs=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(*exact), rel=1e-6)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(*exact), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 101_325.3, 1e-20])
def test_r2_of_equal_targets_is_that_of_scikit_learn(value: float) -> None:
    target = np.full(777, value, np.float32)
    assert scores(target, target, 1.0)["r2"] == sk.r2_score(target, target) == 1
    # scikit-learn's mean of 777 equal numbers may differ from them in float32; of two it does not.
    assert sk.r2_score(target[:2], target[:2] + 1) == 0
    assert scores(target + np.float32(1), target, 1.0)["r2"] == 0
    assert np.isnan(scores(target[:1], target[:1], 1.0)["r2"])


def test_a_run_far_from_zero_has_the_scores_of_scikit_learn(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.standard_normal((400, 3)), columns=list("abc"))
    table["pressure"] = 101_325 + 30 * (0.6 * table["a"] + 0.8 * generator.standard_normal(400))
    table.to_csv(tmp_path / "air.csv", index=False)
    result = train(
        "table",
        f"data.path={tmp_path / 'air.csv'}",
        "data.target=pressure",
        "trainer.limit_val_batches=1.0",
        "trainer.limit_test_batches=1.0",
    )
    run = load_run(result.run.path)
    metrics = json.loads((run.path / "metrics.json").read_text())
    for stage in ("val", "test"):
        found = predict(run.task, run.data(), stage)  # type: ignore[arg-type]
        target, predicted = found["target"].astype(float), found["prediction"].astype(float)
        rmse = sk.root_mean_squared_error(target, predicted)
        assert metrics[f"{stage}/r2"] == pytest.approx(sk.r2_score(target, predicted), abs=1e-5)
        assert metrics[f"{stage}/rmse"] == pytest.approx(rmse, rel=1e-5)
    intervals, baseline = bootstrap(run, found)
    mean = np.full_like(target, run.spec.target_mean[0])
    assert baseline["r2"] == pytest.approx(sk.r2_score(target, mean), abs=1e-5)
    rmse = sk.root_mean_squared_error(target, mean)
    assert metrics["test/mean_predictor_rmse"] == pytest.approx(rmse, rel=1e-5)
    rows = generator.integers(len(target), size=(400, len(target)))
    resampled = [sk.r2_score(target[some], predicted[some]) for some in rows]
    ends = np.quantile(resampled, (0.025, 0.975))
    assert intervals["r2"] == pytest.approx(ends, abs=0.25 * (ends[1] - ends[0]))


def test_scores_stay_on_the_cpu_for_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    def to(value: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert (device.type, value.dtype == torch.float64) == ("mps", False)
        return value

    meter = Regression(nn.Linear(4, 1), VALUES).test_meter
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        meter._apply(lambda _: SimpleNamespace(device=torch.device("mps")))  # type: ignore
    meter.update(torch.tensor(0.5), torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
    assert meter.compute()["test/mae"] == 1


def test_a_metric_of_the_tasks_own_name_is_refused() -> None:
    with pytest.raises(InputError, match="task.metrics.r2: the name is taken"):
        Regression(nn.Linear(4, 1), VALUES, metrics={"r2": RegressionScores(("value",), (0.0,))})
