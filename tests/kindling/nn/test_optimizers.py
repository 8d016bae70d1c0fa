"""The optimizer that a task is given: what decays, and in how many kernels it steps."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from src.kindling.data.spec import Column, Spec
from src.kindling.nn.optimizers import configure, fused
from src.tasks.classification import Classification

COLUMNS = tuple(Column(name) for name in "abcd")
CLASSES = Spec(columns=COLUMNS, in_shape=(4,), num_outputs=3, kind="table", classes=("a", "b", "c"))


def test_weight_decay_excludes_bias_and_norm() -> None:
    task = Classification(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), CLASSES
    )
    make = functools.partial(torch.optim.AdamW, weight_decay=0.1)
    optimizer = configure(task, make, decay_bias_and_norm=False)
    groups = optimizer.param_groups  # type: ignore[union-attr]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2, 2], [1, 1, 1, 1]]


def test_fused_optimizer() -> None:
    cpu = torch.device("cpu")
    weights = [torch.nn.Parameter(torch.ones(3))]
    assert fused(torch.optim.AdamW, cpu)(weights).defaults["fused"] is True
    assert (
        fused(functools.partial(torch.optim.AdamW, foreach=True), cpu)(weights).defaults["fused"]
        is None
    )
    assert fused(torch.optim.RMSprop, cpu)(weights).defaults["lr"] == 0.01  # which has none
    assert fused(torch.optim.AdamW, torch.device("mps")) is torch.optim.AdamW


def test_cosine_spans_a_training_that_is_limited_in_steps() -> None:
    task: Any = Classification(nn.Linear(4, 3), CLASSES)
    task._trainer = SimpleNamespace(
        max_epochs=-1,
        estimated_stepping_batches=30,
        accumulate_grad_batches=4,
        datamodule=SimpleNamespace(train_dataloader=lambda: range(10)),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR
    made: Any = configure(task, torch.optim.SGD, schedule)
    assert made["lr_scheduler"]["scheduler"].T_max == 10  # of three steps each
