"""The optional additions of tasks and data modules: attributes with everyday names.

A class from elsewhere may use such a name for something else, as in `self.outputs = []`; the type
decides.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn


def addition(owner: Any, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """Return an attribute, or the default where it is missing or of another type."""
    value = getattr(owner, name, None)
    return value if isinstance(value, kind) else default


def net_of(task: LightningModule) -> nn.Module:
    """Return the net of a task; the task itself if it has none."""
    net: nn.Module = addition(task, "net", nn.Module, task)
    return net


def outputs_of(task: LightningModule) -> Any:
    """Return the `outputs` of a task, an object of `src.kindling.analysis.outputs`, or None."""
    outputs = getattr(task, "outputs", None)
    return outputs if hasattr(outputs, "predict_proba") else None
