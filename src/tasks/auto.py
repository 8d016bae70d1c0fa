"""The task that fits the data: what they have for targets says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from src.kindling.config.errors import InputError
from src.kindling.data.batch import BatchTransform
from src.kindling.data.spec import Spec
from src.tasks.classification import Classification
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from src.tasks.segmentation import Segmentation


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
    """A `Classification`, `Multilabel`, `Regression` or `Segmentation`, as the spec says; they say what the arguments are.

    A loss and metrics fit one of them: who sets them knows which, and may as well say `task=regression`.
    """
    common: dict[str, Any] = {
        "optimizer": optimizer, "scheduler": scheduler, "loss": loss, "metrics": metrics, "augment": augment,
        "decay_all": decay_all, "monitor": monitor, "mode": mode,
    }  # fmt: skip
    if spec.predicts == "class":
        return Classification(net, spec, class_weights=class_weights, **common)
    if spec.predicts == "labels":
        return Multilabel(net, spec, class_weights=class_weights, **common)
    if class_weights:
        what = "values, not classes" if spec.predicts == "values" else "masks, which cannot be weighed so"
        raise InputError(f"task.class_weights: the target ({spec.target}) has {what}")
    return (Regression if spec.predicts == "values" else Segmentation)(net, spec, **common)
