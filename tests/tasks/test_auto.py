"""The task that fits the data is one of the two, with every argument passed on."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError

from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column, Spec
from src.nets.mlp import MLP
from src.tasks.auto import supervised
from src.tasks.classification import Classification
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from tests.conftest import checked, mistakes

COLUMNS = (Column("a"), Column("b"))
CLASSES = Spec(columns=COLUMNS, in_shape=(2,), num_outputs=3, kind="table", classes=("a", "b", "c"))
VALUES = Spec(columns=COLUMNS, in_shape=(2,), num_outputs=1, kind="table", target_mean=(50.0,), target_std=(10.0,))
LABELS = Spec(columns=COLUMNS, in_shape=(2,), num_outputs=3, kind="table", classes=("red", "round", "old"),
              class_counts=(30, 6, 15), target_mean=(0.5, 0.1, 0.25), target_shape=(3,))  # fmt: skip


def test_classes_make_a_classification_and_values_a_regression() -> None:
    assert type(supervised(nn.Linear(2, 3), CLASSES)) is Classification
    assert type(supervised(nn.Linear(2, 1), VALUES)) is Regression


@pytest.mark.parametrize("spec", [CLASSES, VALUES], ids=["classes", "values"])
def test_every_argument_arrives(spec: Spec) -> None:
    optimizer, loss = functools.partial(torch.optim.SGD, lr=0.1), nn.L1Loss()
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    net, metrics = MLP((2,), spec.num_outputs), {"extra": MeanAbsoluteError()}
    task = supervised(
        net, spec, optimizer, scheduler, loss, metrics=metrics, decay_all=False, monitor="val/extra", mode="max"
    )
    assert isinstance(task, Classification | Regression)
    assert (task.net, task.optimizer, task.scheduler, task.loss) == (net, optimizer, scheduler, loss)
    assert (task.decay_all, task.monitor, task.mode) == (False, "val/extra", "max")
    assert "extra" in task.val_meter.metrics


def test_its_arguments_are_checked_like_any_others() -> None:
    words = ("data.path=a.csv", "data.target=b")
    assert checked("table", *words, "task.optimizer.lr=0.1", "task.loss._target_=torch.nn.CrossEntropyLoss")
    assert mistakes("train", "table", *words, "task.monitr=val/accuracy", "data.traget=c") == [
        "data.traget: Table has no argument 'traget'; did you mean 'target'? (command line)",
        "task.monitr: supervised has no argument 'monitr'; did you mean 'monitor'? (command line)",
    ]


def test_what_is_missing_is_named() -> None:
    assert mistakes("train", "table") == [
        "data.path: Table needs it, and it is not set; add data.path=… (configs/data/table.yaml)",
        "data.target: Table needs it, and it is not set; add data.target=… (configs/data/table.yaml)",
    ]


def test_each_task_sends_other_data_to_its_own() -> None:
    one_class = dataclasses.replace(LABELS, target_shape=())
    for task, spec, line in (
        (Multilabel, one_class, "Multilabel needs several labels for a sample, and the data has one class for a sample; try "
                                "task=classification"),
        (Multilabel, dataclasses.replace(VALUES, target="size"), "Multilabel needs several labels for a sample, and the data has values (size); try task=regression"),
        (Classification, LABELS, "Classification needs classes, and the data has several labels for a sample (red, round, old); "
                                 "try task=multilabel"),
        (Regression, LABELS, "Regression needs values, and the data has 3 labels; try task=multilabel"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            task(nn.Linear(2, 3), spec)  # type: ignore[operator]
        assert caught.value.lines == [f"task: {line}"]
    assert mistakes("train", "segmentation", "task=classification") == [
        "task: Classification needs classes, and the data has masks; try task=segmentation"
    ]
