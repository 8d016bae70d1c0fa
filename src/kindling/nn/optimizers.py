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

from src.kindling.config.errors import InputError


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
    optimizer = fused(optimizer, task.device)
    try:
        made = optimizer(_groups(task, decay_all))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"task.optimizer: {_name(optimizer)}: {error}") from None
    scales = [group.get("lr_scale", 1.0) for group in made.param_groups]
    for group, scale in zip(made.param_groups, scales, strict=True):
        if scale != 1:
            group["lr"] = group["lr"] * scale
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
            made,
            **{name: lengths[name] for name in lengths if name in accepted and name not in given},
            # Schedules that say the rates themselves: OneCycle, and the cyclic ones.
            **{name: [given[name] * scale for scale in scales] for name in ("max_lr", "base_lr")
               if set(scales) != {1.0} and isinstance(given.get(name), int | float)},
        )  # fmt: skip
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"task.scheduler: {_name(scheduler)}: {error}") from None
    steps: LRSchedulerConfigType = {
        "scheduler": schedule,
        "interval": "step" if "total_steps" in accepted or "step_size_up" in accepted else "epoch",
    }
    if isinstance(schedule, ReduceLROnPlateau):
        steps["monitor"] = monitor
    return {"optimizer": made, "lr_scheduler": steps}


def _groups(task: LightningModule, decay_all: bool) -> list[Any]:
    """What is trained, in groups of one learning rate (`task.lr_scales`, see training/callbacks/finetune.py) and one decay."""
    scales: dict[str, float] = getattr(task, "lr_scales", {})
    trained = [(name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad]
    if decay_all and not scales:
        return [parameter for _, parameter in trained]
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for decays in (True, False):
        for name, parameter in trained:
            if decays != (decay_all or parameter.ndim > 1):
                continue
            scale = scales.get(name, 1.0)
            group = groups.setdefault((scale, decays), {"params": [], "lr_scale": scale})
            group["params"].append(parameter)
            if not decays:
                group["weight_decay"] = 0.0
    return list(groups.values())


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
