"""Classification measures what scikit-learn measures, names its columns, and trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from src.kindling.analysis.class_plots import plot_roc_and_pr
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column, Spec
from src.tasks.classification import Classification
from tests.conftest import train

COLUMNS = tuple(Column(name) for name in "abcd")
CLASSES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=3, kind="table", classes=("a", "b", "c"))


def test_classification_metrics_match_scikit_learn() -> None:
    torch.manual_seed(0)
    task = Classification(nn.Linear(4, 3), CLASSES)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    for part in range(0, 60, 25):
        task.test_step((x[part : part + 25], y[part : part + 25]), 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    logits = task(x).detach()
    predicted, probability = logits.argmax(1), logits.softmax(1)
    assert values["test/accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert values["test/precision"] == pytest.approx(
        sk.precision_score(y, predicted, average="macro")
    )
    assert values["test/recall"] == pytest.approx(sk.recall_score(y, predicted, average="macro"))
    assert values["test/f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert values["test/auroc"] == pytest.approx(
        sk.roc_auc_score(y, probability, multi_class="ovr"), abs=1e-5
    )
    assert values["test/loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, y).item(), rel=1e-5
    )


@pytest.mark.parametrize("case", ["mixed", "never predicted", "absent"])
def test_binary_scores_are_of_the_positive_class(case: str) -> None:
    torch.manual_seed(0)
    spec = dataclasses.replace(CLASSES, num_outputs=2, classes=("benign", "malignant"))
    task = Classification(net := nn.Linear(4, 2), spec)
    x, y = torch.randn(90, 4), (torch.arange(90) % 3 == 0).long()
    if case == "never predicted":
        net.bias.data[0] = 99
    if case == "absent":
        y[:] = 0
    task.test_step((x, y), 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    predicted = task(x).argmax(1)
    for name in ("precision", "recall", "f1"):
        expected = getattr(sk, f"{name}_score")(y, predicted, pos_label=1, zero_division=0)
        if (case, name) == ("absent", "recall"):
            expected = float("nan")  # undefined
        assert values[f"test/{name}"] == pytest.approx(expected, nan_ok=True)
    if case == "never predicted":
        assert task.test_meter.notes == ["test/f1: never predicted: malignant"]
    assert task.notes == ["positive class of precision, recall and f1: malignant"]
    row = ("positive class", "malignant (for precision, recall, F1, ROC)")
    assert row in task.outputs.describe(dataclasses.replace(spec, class_counts=(60, 30)))
    curves = plot_roc_and_pr(y.numpy(), task(x).softmax(1).detach().numpy(), task.outputs.names)
    assert [text.get_text().split()[-1] for text in curves.axes[0].get_legend().get_texts()] == [
        "samples)" if case == "absent" else "malignant"
    ]


def test_predict_step_names_its_columns() -> None:
    batch = (torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    columns = Classification(nn.Linear(4, 3), CLASSES).predict_step(batch, 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "target": (5,),
        "prediction": (5,),
        "probability": (5, 3),
    }
    assert torch.allclose(columns["probability"].sum(1), torch.ones(5))


def test_balanced_class_weights() -> None:
    spec = dataclasses.replace(CLASSES, class_counts=(10, 20, 30))
    task = Classification(nn.Linear(4, 3), spec, class_weights="balanced")
    assert task.loss.weight.tolist() == pytest.approx([2.0, 1.0, 2 / 3])  # type: ignore[union-attr]
    assert "loss.weight" in task.state_dict()
    with pytest.raises(InputError, match="task.class_weights: MSELoss takes no weights"):
        Classification(nn.Linear(4, 3), spec, loss=nn.MSELoss(), class_weights="balanced")


def test_classification_trains() -> None:
    result = train("digits")
    assert type(result.run.task) is Classification
    assert {"val/loss", "val/accuracy", "test/loss", "test/accuracy"} <= set(result.metrics)
