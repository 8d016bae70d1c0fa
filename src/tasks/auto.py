"""The supervised task that fits the target of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from src.kindling.config import InputError
from src.kindling.data import Spec
from src.tasks.classification import Classification
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from src.tasks.segmentation import Segmentation

TASKS: dict[str, Callable[..., LightningModule]] = {
    "class": Classification,
    "labels": Multilabel,
    "values": Regression,
    "mask": Segmentation,
}


def supervised(
    net: nn.Module,
    spec: Spec,
    optimizer: Callable[[Any], Optimizer] = AdamW,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    loss: nn.Module | None = None,
    class_weights: Literal["balanced"] | None = None,
    metrics: dict[str, Metric] | None = None,
    decay_bias_and_norm: bool = True,
) -> LightningModule:
    """A `Classification`, `Multilabel`, `Regression` or `Segmentation`, with its arguments.

    Raises:
        InputError: when `class_weights` is set and the target has no classes to weigh.
    """
    given: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "loss": loss}
    given |= {"metrics": metrics, "decay_bias_and_norm": decay_bias_and_norm}
    if class_weights and spec.target_type not in ("class", "labels"):
        what = "values" if spec.target_type == "values" else "masks"
        raise InputError(f"task.class_weights: the target ({spec.target}) has {what}; remove it")
    if class_weights:
        given["class_weights"] = class_weights
    return TASKS[spec.target_type](net, spec, **given)
