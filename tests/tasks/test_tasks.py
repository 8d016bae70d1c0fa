"""The two tasks: what they measure is what scikit-learn measures, in the target's own unit."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torchmetrics import MeanAbsoluteError

from src.data.batch import Batch
from src.data.spec import Column, Spec
from src.errors import InputError
from src.tasks import meter as meter_module
from src.tasks.classification import Classification
from src.tasks.meter import Meter
from src.tasks.optimizers import configure, fused
from src.tasks.regression import Regression

COLUMNS = tuple(Column(name) for name in "abcd")
CLASSES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=3, kind="table", classes=("a", "b", "c"))
VALUES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=1, kind="table", target_mean=(50.0,),
              target_std=(10.0,))  # fmt: skip


def test_classification_measures_what_scikit_learn_measures() -> None:
    torch.manual_seed(0)
    task = Classification(nn.Linear(4, 3), CLASSES)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    for part in range(0, 60, 25):
        task.test_step(Batch(x[part : part + 25], y[part : part + 25], torch.arange(25), (0, 0)), 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    logits = task(x).detach()
    predicted, probability = logits.argmax(1), logits.softmax(1)
    assert values["test/accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert values["test/precision"] == pytest.approx(sk.precision_score(y, predicted, average="macro"))
    assert values["test/recall"] == pytest.approx(sk.recall_score(y, predicted, average="macro"))
    assert values["test/f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert values["test/auroc"] == pytest.approx(sk.roc_auc_score(y, probability, multi_class="ovr"), abs=1e-5)
    assert values["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)


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
    batch = Batch(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64), torch.arange(5), (0, 0))
    columns = Classification(nn.Linear(4, 3), CLASSES).predict_step(batch, 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "index": (5,), "target": (5,), "prediction": (5,), "probability": (5, 3)}  # fmt: skip
    assert torch.allclose(columns["probability"].sum(1), torch.ones(5))
    columns = Regression(nn.Linear(4, 1), VALUES).predict_step(batch._replace(y=torch.zeros(5, 1)), 0)
    assert tuple(columns["prediction"].shape) == (5, 1)


def test_a_meter_holds_little_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, targets = torch.randn(40, 1), torch.randn(40, 1)

    def value() -> dict[str, float]:
        meter = Meter("val", {"mae": MeanAbsoluteError()})
        for i in range(0, 40, 7):
            meter.update(outputs[i : i + 7].mean(), outputs[i : i + 7], targets[i : i + 7])
            assert sum(len(held[1]) for held in meter.held) < max(meter_module.HELD, 8)
        found = {name: number.item() for name, number in meter.compute().items()}
        assert meter.held == []
        return found

    whole = value()
    assert whole["val/loss"] == pytest.approx(outputs.mean().item(), rel=1e-5)  # weighted by the batches' sizes
    monkeypatch.setattr(meter_module, "HELD", 10)
    assert value() == pytest.approx(whole, rel=1e-6)


def test_balanced_weights_are_the_inverse_shares() -> None:
    spec = dataclasses.replace(CLASSES, class_counts=(10, 20, 30))
    task = Classification(nn.Linear(4, 3), spec, class_weights="balanced")
    assert task.loss.weight.tolist() == pytest.approx([2.0, 1.0, 2 / 3])  # type: ignore[union-attr]
    assert "loss.weight" in task.state_dict()
    with pytest.raises(InputError, match="task.class_weights: MSELoss takes no weights"):
        Classification(nn.Linear(4, 3), spec, loss=nn.MSELoss(), class_weights="balanced")


def test_decay_spares_biases_and_norms_when_asked() -> None:
    task = Classification(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), CLASSES)
    make = functools.partial(torch.optim.AdamW, weight_decay=0.1)
    optimizer = configure(task, make, None, "val/loss", "min", decay_all=False)
    groups = optimizer.param_groups  # type: ignore[union-attr]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2, 2], [1, 1, 1, 1]]


def test_one_kernel_steps_all_parameters_where_the_optimizer_has_it() -> None:
    cpu = torch.device("cpu")
    weights = [torch.nn.Parameter(torch.ones(3))]
    assert fused(torch.optim.AdamW, cpu)(weights).defaults["fused"] is True
    assert fused(functools.partial(torch.optim.AdamW, foreach=True), cpu)(weights).defaults["fused"] is None
    assert fused(torch.optim.RMSprop, cpu)(weights).defaults["lr"] == 0.01  # which has none
    assert fused(torch.optim.AdamW, torch.device("mps")) is torch.optim.AdamW
