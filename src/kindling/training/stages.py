"""Which stages a task and its data have."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage

STEPS: dict[Stage, str] = {"train": "training_step", "val": "validation_step", "test": "test_step"}


def has_stage(stage: Stage, data: Any, task: LightningModule) -> bool:
    """Whether the task has a step and there is something to read for a stage."""
    if not is_overridden(STEPS[stage], task):
        return False
    if isinstance(data, DataModule):
        return len(data.indices[stage]) > 0
    loader = f"{stage}_dataloader"
    return any(owner is not None and is_overridden(loader, owner) for owner in (data, task))
