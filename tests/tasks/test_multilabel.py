"""Several labels and several values for a sample: measured as scikit-learn measures, told by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from src.kindling.analysis.intervals import metric_intervals
from src.kindling.analysis.predictions import predict
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column, Spec
from src.kindling.training.trained_run import load_run
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from tests.conftest import mistakes, train

COLUMNS = tuple(Column(name) for name in "abcd")
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
VALUES = Spec(
    columns=COLUMNS,
    in_shape=(4,),
    num_outputs=2,
    kind="table",
    target="size",
    targets=("height", "my width"),
    target_shape=(2,),
    target_mean=(50.0, 1.0),
    target_std=(10.0, 0.1),
)


def steps(task: Multilabel | Regression, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    for part in range(0, len(x), 25):
        task.test_step((x[part : part + 25], y[part : part + 25]), 0)
    return {name: value.item() for name, value in task.test_meter.compute().items()}


def test_multilabel_metrics_match_scikit_learn() -> None:
    torch.manual_seed(0)
    task = Multilabel(nn.Linear(4, 3), LABELS)
    x, y = torch.randn(60, 4), torch.randint(0, 2, (60, 3))
    values = steps(task, x, y)
    logits = task(x).detach()
    probability = logits.sigmoid().numpy()
    said = probability >= 0.5
    assert values["test/exact_match"] == pytest.approx(sk.accuracy_score(y, said))
    assert values["test/accuracy"] == pytest.approx((said == y.numpy()).mean())
    assert values["test/f1"] == pytest.approx(sk.f1_score(y, said, average="macro"))
    each = sk.f1_score(y, said, average=None)
    assert [values[f"test/f1_{name}"] for name in LABELS.classes] == pytest.approx(each.tolist())
    assert values["test/average_precision"] == pytest.approx(
        sk.average_precision_score(y, probability), abs=1e-5
    )
    assert values["test/auroc"] == pytest.approx(sk.roc_auc_score(y, probability), abs=1e-5)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, y.float())
    assert values["test/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert task.outputs.score(torch.from_numpy(probability), y).mean().item() == pytest.approx(
        values["test/exact_match"]
    )


def test_metrics_of_several_values() -> None:
    torch.manual_seed(0)
    task = Regression(nn.Linear(4, 2), VALUES)
    x, y = (
        torch.randn(60, 4),
        torch.tensor([50, 1.0]) + torch.tensor([10, 0.1]) * torch.randn(60, 2),
    )
    values = steps(task, x, y)
    said = task(x).detach()
    for name, of in {
        "mae": sk.mean_absolute_error,
        "rmse": sk.root_mean_squared_error,
        "r2": sk.r2_score,
    }.items():
        each = of(y, said, multioutput="raw_values")
        assert values[f"test/{name}_height"] == pytest.approx(each[0], rel=1e-4)
        assert values[f"test/{name}_my_width"] == pytest.approx(each[1], rel=1e-4)
        assert values[f"test/{name}"] == pytest.approx(each.mean(), rel=1e-4)
    assert values["test/mean_predictor_mae"] == pytest.approx(
        (y - torch.tensor([50, 1.0])).abs().mean().item(), rel=1e-5
    )
    # As `rmse`: the mean over the values of each value's RMSE.
    mean = torch.tensor([50, 1.0]).expand_as(y)
    rmse = sk.root_mean_squared_error(y, mean, multioutput="raw_values").mean()
    assert values["test/mean_predictor_rmse"] == pytest.approx(rmse, rel=1e-5)
    assert task.outputs.score(said, y).mean().item() == pytest.approx(values["test/mae"], rel=1e-5)


def test_column_names_of_predictions() -> None:
    y = torch.zeros(2, 3, dtype=torch.int64)
    task = Multilabel(nn.Linear(4, 3), LABELS)
    columns = task.predict_step((torch.randn(2, 4), y), 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "target": (2, 3),
        "prediction": (2, 3),
        "probability": (2, 3),
    }
    columns["probability"] = torch.tensor([[0.51, 0.2, 0.9], [0.1, 0.5, 0.3]])
    columns["prediction"] = task.outputs.decode(columns["probability"])
    rows = task.outputs.to_frame(columns)
    assert list(rows) == ["prediction", "probability_red", "probability_round", "probability_old"]
    assert rows["prediction"] == ["red;old", ""]
    assert rows["probability_old"].tolist() == pytest.approx([0.9, 0.3])
    values = {"prediction": torch.tensor([[50.0, 1.0]])}
    assert {
        name: column.tolist()
        for name, column in Regression(nn.Linear(4, 2), VALUES).outputs.to_frame(values).items()
    } == {"prediction_height": [50.0], "prediction_my width": [1.0]}


def test_label_weights() -> None:
    task = Multilabel(nn.Linear(4, 3), LABELS, class_weights="balanced")
    assert task.loss.pos_weight.tolist() == pytest.approx([1, 9, 3])  # type: ignore[union-attr]
    assert task.notes == ["label weights in the loss: red 1, round 9, old 3"]
    with pytest.raises(
        InputError,
        match="task.class_weights: MSELoss takes no weights; set task.loss to torch.nn.BCEWithLogitsLoss",
    ):
        Multilabel(nn.Linear(4, 3), LABELS, loss=nn.MSELoss(), class_weights="balanced")


def test_wrong_loss_names_the_label_loss() -> None:
    assert mistakes(
        "train",
        "multilabel",
        "task.loss._target_=torch.nn.CrossEntropyLoss",
        "task.loss.ignore_index=0",
    )[0].endswith("set task.loss=null for the task's own loss, or check its arguments")


def test_label_intervals_baseline_and_plots() -> None:
    run = load_run(train("multilabel", "data.scenes=[96,32,60]").run.path)
    data = run.data()
    predictions = predict(run.task, data, "test")
    assert predictions.scored == "exact_match"
    assert (
        predictions["score"].tolist()
        == (predictions["prediction"] == predictions["target"]).all(1).astype(float).tolist()
    )
    intervals, baseline = metric_intervals(run, predictions)
    said = sk.f1_score(
        predictions["target"], predictions["prediction"], average="macro", zero_division=0
    )
    assert intervals["f1"][0] <= said <= intervals["f1"][1] + 0.02
    assert baseline["auroc"] == pytest.approx(0.5)
    shares = np.array(run.spec.target_mean) >= 0.5
    assert baseline["exact_match"] == pytest.approx((predictions["target"] == shares).all(1).mean())
    made = run.task.outputs.plot(predictions)  # type: ignore[operator]
    assert list(made) == ["classes", "roc_and_pr", "calibration", "mistakes", "examples"]
    caption, name = made["examples"].axes[0].texts[:2]
    true = ";".join(np.flatnonzero(predictions["target"][0]).astype(str))
    assert name.get_text() == predictions.name(0)
    assert caption.get_text().startswith(f"true {true}\n")
