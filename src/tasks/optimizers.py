"""What `configure_optimizers` of every task returns: the optimizer and its schedule, from two partials."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from src.errors import InputError


def configure(
    task: LightningModule,
    optimizer: Callable[[Any], Optimizer],
    scheduler: Callable[[Optimizer], LRScheduler] | None,
    monitor: str,
    mode: str,
    decay_all: bool = True,
) -> OptimizerLRScheduler:
    """The optimizer over the task's net, and the scheduler over the optimizer.

    A scheduler's `total_steps` (OneCycle) and `T_max` (cosine) are filled in from the length of the training, and a
    plateau's direction from what the task monitors, where the config leaves them out. OneCycle and cyclic schedules
    advance with each step, every other with each epoch.

    Args:
        task: the module whose net is trained.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the scheduler from the optimizer.
        monitor, mode: what the task monitors, for schedules that react to it.
        decay_all: False exempts biases and the parameters of norms from weight decay.

    Raises:
        InputError: when the optimizer or the scheduler refuses its values.
    """
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups: list[Any] = trained
    if not decay_all:
        groups = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    optimizer = fused(optimizer, task.device)
    try:
        made = optimizer(groups)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"task.optimizer: {_name(optimizer)}: {error}") from None
    if scheduler is None:
        return made

    accepted = inspect.signature(scheduler).parameters
    given = getattr(scheduler, "keywords", {})
    lengths: dict[str, Any] = {"total_steps": task.trainer.estimated_stepping_batches, "T_max": _epochs(task)}
    if "threshold_mode" in accepted:  # a plateau's; a cyclic schedule means something else by its mode
        lengths["mode"] = mode
    if "epochs" in given:  # OneCycle's other way of saying how long
        del lengths["total_steps"]
    for name in ("T_max", "T_0", "step_size", "total_steps"):
        if (length := given.get(name)) is not None and length < 1:
            raise InputError(f"task.scheduler.{name}: expected at least 1, got {length}")
    try:
        schedule = scheduler(
            made, **{name: lengths[name] for name in lengths if name in accepted and name not in given}
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"task.scheduler: {_name(scheduler)}: {error}") from None
    steps: LRSchedulerConfigType = {
        "scheduler": schedule,
        "interval": "step" if "total_steps" in accepted or "step_size_up" in accepted else "epoch",
    }
    if isinstance(schedule, ReduceLROnPlateau):
        steps["monitor"] = monitor
    return {"optimizer": made, "lr_scheduler": steps}


def fused(optimizer: Callable[[Any], Optimizer], device: torch.device) -> Callable[[Any], Optimizer]:
    """The same optimizer, with one kernel for all parameters where it has one: a quarter of a small net's step."""
    given = {"fused", "foreach", "differentiable"} & set(getattr(optimizer, "keywords", {}))
    if device.type in ("cpu", "cuda") and "fused" in inspect.signature(optimizer).parameters and not given:
        return functools.partial(optimizer, fused=True)  # type: ignore[call-arg]
    return optimizer


def _epochs(task: LightningModule) -> int:
    """The length of the training in epochs, also where it is given in steps."""
    epochs = task.trainer.max_epochs
    if epochs is not None and epochs > 0:
        return epochs
    # By now the loaders need not have been made yet.
    batches = len(task.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    steps = min(task.trainer.estimated_stepping_batches, 10**9)
    return max(1, -(-int(steps) // max(1, batches)))


def _name(partial: Callable[..., Any]) -> str:
    return getattr(partial.func if isinstance(partial, functools.partial) else partial, "__name__", "")
