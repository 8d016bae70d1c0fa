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
VALUES = Spec(
    columns=COLUMNS,
    in_shape=(2,),
    num_outputs=1,
    kind="table",
    target_mean=(50.0,),
    target_std=(10.0,),
)
LABELS = Spec(
    columns=COLUMNS,
    in_shape=(2,),
    num_outputs=3,
    kind="table",
    classes=("red", "round", "old"),
    class_counts=(30, 6, 15),
    target_mean=(0.5, 0.1, 0.25),
    target_shape=(3,),
)


def test_supervised_task_by_target_type() -> None:
    assert type(supervised(nn.Linear(2, 3), CLASSES)) is Classification
    assert type(supervised(nn.Linear(2, 1), VALUES)) is Regression


@pytest.mark.parametrize("spec", [CLASSES, VALUES], ids=["classes", "values"])
def test_supervised_passes_arguments(spec: Spec) -> None:
    optimizer, loss = functools.partial(torch.optim.SGD, lr=0.1), nn.L1Loss()
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    net, metrics = MLP((2,), spec.num_outputs), {"extra": MeanAbsoluteError()}
    task = supervised(
        net, spec, optimizer, scheduler, loss, metrics=metrics, decay_bias_and_norm=False
    )
    assert isinstance(task, Classification | Regression)
    assert (task.net, task.optimizer, task.scheduler, task.loss) == (
        net,
        optimizer,
        scheduler,
        loss,
    )
    assert task.decay_bias_and_norm is False
    assert "extra" in task.val_meter.metrics


def test_pretrained_arguments_are_checked() -> None:
    words = ("data.path=a.csv", "data.target=b")
    assert checked(
        "table", *words, "task.optimizer.lr=0.1", "task.loss._target_=torch.nn.CrossEntropyLoss"
    )
    assert mistakes("train", "table", *words, "task.metrisc={}", "data.traget=c") == [
        "data.traget: Table has no argument 'traget'; did you mean 'target'? (command line)",
        "task.metrisc: supervised has no argument 'metrisc'; did you mean 'metrics'? (command line)",
    ]


def test_missing_addition_is_named() -> None:
    assert mistakes("train", "table") == [
        "data.path: Table needs it, and it is not set; add data.path=… (configs/data/table.yaml)",
        "data.target: Table needs it, and it is not set; add data.target=… (configs/data/table.yaml)",
    ]


def test_task_refuses_other_target_type() -> None:
    one_class = dataclasses.replace(LABELS, target_shape=())
    sizes = dataclasses.replace(VALUES, target="size")
    for task, spec, has, fitting in (
        (Multilabel, one_class, "one class for a sample", "classification"),
        (Multilabel, sizes, "values (size)", "regression"),
        (Classification, LABELS, "several labels for a sample", "multilabel"),
        (Regression, LABELS, "several labels for a sample", "multilabel"),
    ):
        with pytest.raises(InputError) as caught:
            task(nn.Linear(2, 3), spec)  # type: ignore[operator]
        (line,) = caught.value.lines
        assert line.startswith("task: needs ")
        assert line.endswith(f", and the data has {has}; set task={fitting}")
    (line,) = mistakes("train", "segmentation", "task=classification")
    assert (
        line == "task: needs one class for a sample, and the data has masks; set task=segmentation"
    )
