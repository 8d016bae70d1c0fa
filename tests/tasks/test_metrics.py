"""The tasks' metrics are those of scikit-learn and numpy where float32 and torchmetrics go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t
from sklearn import metrics as sk
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError, MultilabelF1Score

from src.kindling.analysis.intervals import metric_intervals
from src.kindling.analysis.outputs import Classes
from src.kindling.analysis.predictions import predict
from src.kindling.analysis.report import format_number, list_missing_classes
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column, Spec
from src.kindling.nn.metrics import Overlap, RegressionScores
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from tests.conftest import call, train

COLUMNS = tuple(Column(name) for name in "abcd")
VALUES = Spec(
    columns=COLUMNS,
    in_shape=(4,),
    num_outputs=1,
    kind="table",
    target_mean=(50.0,),
    target_std=(10.0,),
)
CLASSES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=3, kind="table", classes=("a", "b", "c"))
LABELS = Spec(
    columns=COLUMNS,
    in_shape=(4,),
    num_outputs=3,
    kind="table",
    classes=("red", "round", "old"),
    class_counts=(30, 6, 15),
    target_mean=(0.5, 0.1, 0.25),
    target_shape=(3,),
)


# Values: numbers that float32 sums cannot hold


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
def test_regression_scores_at_any_scale(mean: float, std: float, count: int) -> None:
    generator = np.random.default_rng(count)
    values = mean + std * generator.standard_normal((1000 + count, 2)) @ [[1, 0.7], [0, 0.7]]
    target, predicted = values[1000:, 0].astype(np.float32), values[1000:, 1].astype(np.float32)
    found = scores(predicted, target, float(values[:1000, 0].mean()))
    exact = target.astype(float), predicted.astype(float)
    assert found["r2"] == pytest.approx(sk.r2_score(*exact), rel=1e-5, abs=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(*exact), rel=1e-6)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(*exact), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 101_325.3, 1e-20])
def test_r2_of_equal_targets_matches_scikit_learn(value: float) -> None:
    target = np.full(777, value, np.float32)
    assert scores(target, target, 1.0)["r2"] == sk.r2_score(target, target) == 1
    # scikit-learn's mean of 777 equal numbers may differ from them in float32; of two it does not.
    assert sk.r2_score(target[:2], target[:2] + 1) == 0
    assert scores(target + np.float32(1), target, 1.0)["r2"] == 0
    assert np.isnan(scores(target[:1], target[:1], 1.0)["r2"])


@pytest.mark.parametrize(
    ("mean", "std", "share"),
    [
        (101_325, 30, 0.6),
        pytest.param(1e4, 1, 0.6, marks=pytest.mark.long),
        pytest.param(0, 1e-3, 0, marks=pytest.mark.long),
        pytest.param(1e8, 8, 0.6, marks=pytest.mark.long),
    ],
)
def test_run_r2_at_any_scale_matches_scikit_learn(
    mean: float, std: float, share: float, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.standard_normal((400, 3)), columns=list("abc"))
    table["pressure"] = mean + std * (share * table["a"] + 0.8 * generator.standard_normal(400))
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
    call("evaluate", str(run.path))
    assert json.loads((run.path / "evaluation.json").read_text()) == metrics
    for stage in ("val", "test"):
        found = predict(run.task, run.data(), stage)  # type: ignore[arg-type]
        target, predicted = found["target"].astype(float), found["prediction"].astype(float)
        assert np.allclose(target[:, 0], table["pressure"][found["index"]], rtol=0, atol=1e-3 * std)
        rmse = sk.root_mean_squared_error(target, predicted)
        assert metrics[f"{stage}/r2"] == pytest.approx(sk.r2_score(target, predicted), abs=1e-5)
        assert metrics[f"{stage}/rmse"] == pytest.approx(rmse, rel=1e-5)
    intervals, baseline = metric_intervals(run, found)
    constant = np.full_like(target, run.spec.target_mean[0])
    assert baseline["r2"] == pytest.approx(sk.r2_score(target, constant), abs=1e-4)
    rmse = sk.root_mean_squared_error(target, constant)
    assert metrics["test/mean_predictor_rmse"] == pytest.approx(rmse, rel=1e-5)
    rows = generator.integers(len(target), size=(400, len(target)))
    resampled = [sk.r2_score(target[some], predicted[some]) for some in rows]
    ends = np.quantile(resampled, (0.025, 0.975))
    assert intervals["r2"] == pytest.approx(ends, abs=0.25 * (ends[1] - ends[0]))


def test_float64_scores_stay_on_cpu_for_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    def to(value: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert (device.type, value.dtype == torch.float64) == ("mps", False)
        return value

    meter = Regression(nn.Linear(4, 1), VALUES).test_meter
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        meter._apply(lambda _: SimpleNamespace(device=torch.device("mps")))  # type: ignore
    meter.update(torch.tensor(0.5), torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
    assert meter.compute()["test/mae"] == 1


def test_metric_name_conflict_is_refused() -> None:
    with pytest.raises(InputError, match="task.metrics.r2: the name is taken"):
        Regression(nn.Linear(4, 1), VALUES, metrics={"r2": RegressionScores(("value",), (0.0,))})


# Classes: metrics take probabilities


class Scaled(nn.Module):
    """Logits that are the first three inputs, scaled and shifted."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, :3] + self.shift


def measure(task: Classification | Multilabel, x: Tensor, y: Tensor) -> dict[str, float]:
    """The test metrics over two batches, and the training accuracy of the same outputs."""
    for rows in (slice(None, 150), slice(150, None)):
        task.test_step((x[rows], y[rows]), 0)
    task.train_meter.update(torch.tensor(0.0), task(x), y)
    values = {**task.test_meter.compute(), **task.train_meter.compute()}
    return {name: value.item() for name, value in values.items()}


def columns(
    task: Classification | Multilabel, x: Tensor, y: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """What predict_step says: probabilities and predictions."""
    with torch.no_grad():
        found = task.predict_step((x, y), 0)
    return found["probability"].numpy(), found["prediction"].numpy()


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(0.1, 0.5), (60, 0), (1e-9, 0.1)],
    ids=["within 0 and 1", "saturated", "nearly equal"],
)
def test_class_metrics_match_saved_probabilities(scale: float, shift: float) -> None:
    torch.manual_seed(0)
    ece = MulticlassCalibrationError(3)
    task = Classification(Scaled(scale, shift), CLASSES, metrics={"ece": ece})
    x, y = torch.rand(200, 4) * 2 - 1, torch.randint(0, 3, (200,))
    values = measure(task, x, y)
    probability, predicted = columns(task, x, y)
    accuracy = pytest.approx(sk.accuracy_score(y, predicted))
    assert values["train/accuracy"] == values["test/accuracy"] == accuracy
    assert values["test/f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    auroc = sk.roc_auc_score(np.eye(3)[y], probability)
    assert values["test/auroc"] == pytest.approx(auroc, abs=1e-6)
    claimed, right = probability.max(axis=1).astype(float), predicted == y.numpy()
    bins = np.minimum((claimed * 15).astype(int), 14)
    gaps = [abs((claimed - right)[bins == i].sum()) for i in range(15)]
    assert values["test/ece"] == pytest.approx(sum(gaps) / len(y), abs=1e-5)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(0.1, 0.5), (60, 0), (0, 0)],
    ids=["within 0 and 1", "saturated", "all 0.5"],
)
def test_label_metrics_match_saved_probabilities(scale: float, shift: float) -> None:
    torch.manual_seed(0)
    micro_f1 = MultilabelF1Score(3, average="micro")
    task = Multilabel(Scaled(scale, shift), LABELS, metrics={"micro_f1": micro_f1})
    x, y = torch.rand(200, 4) * 2 - 1, torch.randint(0, 2, (200, 3))
    values = measure(task, x, y)
    probability, predicted = columns(task, x, y)
    accuracy = pytest.approx((predicted == y.numpy()).mean())
    assert values["train/accuracy"] == values["test/accuracy"] == accuracy
    assert values["test/exact_match"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert values["test/auroc"] == pytest.approx(sk.roc_auc_score(y, probability), abs=1e-6)
    precision = sk.average_precision_score(y, probability)
    assert values["test/average_precision"] == pytest.approx(precision, abs=1e-6)
    micro = sk.f1_score(y, predicted, average="micro", zero_division=0)
    assert values["test/micro_f1"] == pytest.approx(micro)


def test_half_precision_weights_give_float32_probabilities() -> None:
    torch.manual_seed(0)
    task = Classification(nn.Linear(4, 3), CLASSES).to(torch.bfloat16)
    x, y = torch.rand(200, 4, dtype=torch.bfloat16), torch.randint(0, 3, (200,))
    probability, predicted = columns(task, x, y)
    assert probability.dtype == np.float32
    values = measure(task, x, y)
    assert values["test/accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    auroc = sk.roc_auc_score(np.eye(3)[y], probability)
    assert values["test/auroc"] == pytest.approx(auroc, abs=1e-6)


# Classes that a split lacks


def draw(classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
    """Inputs, and class numbers below `classes` that they tell something of."""
    torch.manual_seed(0)
    y = torch.randint(0, classes, (count,))
    x = torch.randn(count, 4) + 2 * nn.functional.one_hot(y, 4)
    return x, y


def test_class_metrics_average_present_classes() -> None:
    x, y = draw(2)
    task = Classification(Scaled(1, 0), CLASSES)
    values = measure(task, x, y)
    probability, predicted = columns(task, x, y)
    assert (predicted == 2).any()  # which never occurs
    auroc = [sk.roc_auc_score(y == i, probability[:, i]) for i in range(2)]
    assert values["test/auroc"] == pytest.approx(np.mean(auroc), abs=1e-6)
    recall = sk.recall_score(y, predicted, average="macro", labels=[0, 1])
    assert values["test/recall"] == pytest.approx(recall)
    every = {"labels": [0, 1, 2], "average": "macro", "zero_division": 0}
    assert values["test/precision"] == pytest.approx(sk.precision_score(y, predicted, **every))
    assert values["test/f1"] == pytest.approx(sk.f1_score(y, predicted, **every))
    mean = "mean over the 2 of 3 classes that occur"
    assert task.test_meter.notes == [
        f"test/auroc: {mean}; missing: c",
        "test/f1: predicted, but not in this split: c (counts as 0)",
    ]


def test_classes_never_predicted_are_named() -> None:
    x, y = draw(3)
    x[:, 1] = -9
    task = Classification(Scaled(1, 0), CLASSES)
    measure(task, x, y)
    assert task.test_meter.notes == ["test/f1: never predicted: b"]
    overlap = Overlap(("sky", "tree", "road"))
    overlap.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 1]]]))
    assert overlap.compute()["iou"] == pytest.approx(1 / 3)
    assert (
        overlap.note
        == "never predicted: tree; predicted, but not in this split: road (counts as 0)"
    )


def test_absent_class_has_no_dice() -> None:
    x, y = draw(2)
    x[:, 2] = -9
    task = Classification(Scaled(1, 0), CLASSES)
    values = measure(task, x, y)
    predicted = columns(task, x, y)[1]
    for name in ("precision", "recall", "f1"):
        score = getattr(sk, f"{name}_score")(y, predicted, average="macro", labels=[0, 1])
        assert values[f"test/{name}"] == pytest.approx(score)


def test_label_metrics_average_present_labels() -> None:
    x, y = draw(2)
    labels = torch.stack([y, torch.zeros_like(y), torch.ones_like(y)], dim=1)
    x[:, 1] = -9
    task = Multilabel(Scaled(1, 0), LABELS)
    values = measure(task, x, labels)
    probability, predicted = columns(task, x, labels)
    auroc = sk.roc_auc_score(labels[:, 0], probability[:, 0])
    precision = sk.average_precision_score(labels[:, [0, 2]], probability[:, [0, 2]])
    assert values["test/auroc"] == pytest.approx(auroc, abs=1e-6)
    assert values["test/average_precision"] == pytest.approx(precision, abs=1e-6)
    f1 = sk.f1_score(labels, predicted, average="macro", labels=[0, 2])
    assert values["test/f1"] == pytest.approx(f1)
    assert np.isnan(values["test/f1_round"])
    occur = "mean over the 1 of 3 classes that occur; missing: round; in every sample: old"
    assert task.test_meter.notes == [
        f"test/auroc: {occur}",
        "test/average_precision: mean over the 2 of 3 classes that occur; missing: round",
    ]


def test_auroc_of_one_class_is_undefined() -> None:
    x, y = draw(1)
    task = Classification(Scaled(1, 0), CLASSES)
    assert np.isnan(measure(task, x, y)["test/auroc"])
    assert task.test_meter.notes == [
        "test/auroc: undefined; missing: b, c; in every sample: a",
        "test/f1: predicted, but not in this split: b, c (counts as 0)",
    ]


def test_run_lists_classes_missing_from_splits(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("data.batch_size=12", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    run = load_run(train("digits", *few).run.path)
    metrics = json.loads((run.path / "metrics.json").read_text())
    output = capsys.readouterr().out
    for stage in ("val", "test"):
        found = predict(run.task, run.data(), stage).take(slice(12))  # type: ignore[arg-type]
        target, probability = found["target"], found["probability"]
        there = np.unique(target)
        auroc = np.mean([sk.roc_auc_score(target == i, probability[:, i]) for i in there])
        assert metrics[f"{stage}/auroc"] == pytest.approx(auroc, abs=1e-6)
        missing = ", ".join(str(i) for i in range(10) if i not in there)
        mean = f"mean over the {len(there)} of 10 classes that occur"
        assert f"{stage}/auroc: {mean}; missing: {missing}\n" in output


def test_evaluate_with_nan_metric_is_identical(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("data.batch_size=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    run = train("digits", *few).run
    assert json.loads((run.path / "metrics.json").read_text())["test/auroc"] is None
    call("evaluate", str(run.path))
    assert "identical  to the metrics at the end of training" in capsys.readouterr().out


def test_intervals_resample_over_present_classes() -> None:
    run = train("digits", "trainer.limit_test_batches=1.0").run
    predictions = predict(load_run(run.path).task, run.data(), "test")
    target = predictions["target"]
    some = predictions.take((target < 3) & ((target != 2) | (np.cumsum(target == 2) == 1)))
    target, probability = some["target"], some["probability"]
    assert np.count_nonzero(target == 2) == 1  # a third of the resamples lacks it
    intervals, baseline = metric_intervals(run, some)
    assert baseline["auroc"] == pytest.approx(0.5)

    def auroc(rows: np.ndarray) -> float:
        there = np.unique(target[rows])
        areas = [sk.roc_auc_score(target[rows] == i, probability[rows, i]) for i in there]
        return float(np.mean(areas))

    # Without the only sample of a class, the mean is over the other classes.
    n, every = len(target), np.arange(len(target))
    left_out = np.array([auroc(np.delete(every, i)) for i in every])
    variance = (n - 1) / n * np.square(auroc(every) - left_out).sum()
    low, high = intervals["auroc"]
    for end in (low, high):  # Wilson's, at the sample size of that variance
        share = auroc(every)
        unit = end * (1 - end) / (share * (1 - share))
        assert (share - end) ** 2 == pytest.approx(
            t.ppf(0.975, n - 1) ** 2 * variance * unit, rel=0.02
        )
    assert low <= auroc(every) <= high


def test_report_lists_absent_classes() -> None:
    run = train("digits").run
    predictions = predict(load_run(run.path).task, run.data(), "test")
    some = predictions.take(predictions["target"] < 8)
    assert list_missing_classes(predictions) == []
    means = "AUROC and recall are means over the other 8 of 10."
    assert list_missing_classes(some) == [f"Classes without a test sample: 8, 9. {means}"]
    assert not {"nan", "null"} & {format_number(float("nan")), format_number(None)}


def test_absent_class_of_two_has_no_averages() -> None:
    outputs, target = Classes(["benign", "malignant"]), np.zeros(5, dtype=int)
    assert outputs.describe_missing(target, "val") == "Classes without a val sample: malignant."
