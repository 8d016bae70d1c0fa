"""The task that fits the data: classification where they have classes, regression where they have values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from src.data.batch import BatchTransform
from src.data.spec import Spec
from src.errors import InputError
from src.tasks.classification import Classification
from src.tasks.regression import Regression


def supervised(
    net: nn.Module,
    spec: Spec,
    optimizer: Callable[[Any], Optimizer] = AdamW,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    loss: nn.Module | None = None,
    class_weights: Literal["balanced"] | None = None,
    metrics: dict[str, Metric] | None = None,
    augment: Sequence[BatchTransform] = (),
    decay_all: bool = True,
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
) -> LightningModule:
    """A `Classification` or a `Regression`, as the spec says; both say what the arguments are.

    A loss and metrics fit one of the two: who sets them knows which, and may as well say `task=regression`.
    """
    common: dict[str, Any] = {
        "optimizer": optimizer, "scheduler": scheduler, "loss": loss, "metrics": metrics, "augment": augment,
        "decay_all": decay_all, "monitor": monitor, "mode": mode,
    }  # fmt: skip
    if spec.classes:
        return Classification(net, spec, class_weights=class_weights, **common)
    if class_weights:
        raise InputError(f"task.class_weights: the target ({spec.target}) has values, not classes")
    return Regression(net, spec, **common)
