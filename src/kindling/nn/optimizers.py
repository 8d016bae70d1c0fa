"""The optimizer and its schedule from two partials, for `configure_optimizers`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from src.kindling.config.errors import InputError
from src.kindling.config.targets import parameters

LEARNING_RATES = ("optimizer.lr", "lr", "learning_rate")  # arguments of tasks


def learning_rate_key(task: Any) -> str | None:
    """The config key of a task's learning rate, by its class's arguments; None if it has none."""
    known = parameters(task)
    return next((f"task.{key}" for key in LEARNING_RATES if key.split(".")[0] in known), None)


def configure(
    task: LightningModule,
    optimizer: Callable[[Any], Optimizer],
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    decay_bias_and_norm: bool = True,
) -> OptimizerLRScheduler:
    """Build the optimizer of the task's parameters, and its scheduler.

    If the config omits them, `total_steps` (OneCycle) and `T_max` (cosine) are the training's
    length, and a plateau's metric and direction are the run's `monitor` and `mode`. OneCycle and
    cyclic schedules advance with each step, all others with each epoch.

    Args:
        task: the module whose net is trained.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the scheduler from the optimizer.
        decay_bias_and_norm: False exempts biases and the parameters of norms from weight decay.

    Raises:
        InputError: when the optimizer or the scheduler refuses its values.
    """
    optimizer = fused(optimizer, task.device)
    try:
        made = optimizer(_groups(task, decay_bias_and_norm))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"task.optimizer: {_name(optimizer)}: {error}") from None
    scales = [group.get("lr_scale", 1.0) for group in made.param_groups]
    for group, scale in zip(made.param_groups, scales, strict=True):
        if scale != 1:
            group["lr"] = group["lr"] * scale
    if scheduler is None:
        return made

    schedule = _build_schedule(task, scheduler, made, scales)
    accepted = inspect.signature(scheduler).parameters
    steps: LRSchedulerConfigType = {
        "scheduler": schedule,
        "interval": "step" if "total_steps" in accepted or "step_size_up" in accepted else "epoch",
    }
    if isinstance(schedule, ReduceLROnPlateau):
        # What the run monitors; a callback of Lightning's own, under a plain Trainer.
        steps["monitor"] = getattr(task.trainer.checkpoint_callback, "monitor", None) or "val/loss"
    return {"optimizer": made, "lr_scheduler": steps}


def _build_schedule(
    task: LightningModule,
    scheduler: Callable[[Optimizer], LRScheduler],
    optimizer: Optimizer,
    scales: list[float],
) -> LRScheduler:
    """Build the scheduler, with the values that the config omits."""
    accepted = inspect.signature(scheduler).parameters
    given = getattr(scheduler, "keywords", {})
    for name in ("T_max", "T_0", "step_size", "total_steps"):
        if (length := given.get(name)) is not None and length < 1:
            raise InputError(f"task.scheduler.{name}: expected at least 1, got {length}")
    defaults: dict[str, Any] = {"T_max": _epochs(task)}
    if "epochs" not in given:  # OneCycle's other way to set its length
        defaults["total_steps"] = task.trainer.estimated_stepping_batches
    if "threshold_mode" in accepted:  # a plateau's; a cyclic schedule's mode is something else
        defaults["mode"] = getattr(task.trainer.checkpoint_callback, "mode", "min")
    omitted = defaults.keys() & accepted.keys() - given.keys()
    options = {key: defaults[key] for key in omitted}
    if set(scales) != {1.0}:
        for name in ("max_lr", "base_lr"):  # OneCycle and cyclic schedules set the rates themselves
            if isinstance(given.get(name), int | float):
                options[name] = [given[name] * scale for scale in scales]
    try:
        return scheduler(optimizer, **options)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"task.scheduler: {_name(scheduler)}: {error}") from None


def _groups(task: LightningModule, decay_bias_and_norm: bool) -> list[Any]:
    """Group the trained parameters by learning rate (`task.lr_scales`) and weight decay."""
    scales: dict[str, float] = getattr(task, "lr_scales", {})
    trained = {name: value for name, value in task.named_parameters() if value.requires_grad}
    if decay_bias_and_norm and not scales:
        return [*trained.values()]
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for decays in (True, False):
        for name, parameter in trained.items():
            if decays != (decay_bias_and_norm or parameter.ndim > 1):
                continue
            scale = scales.get(name, 1.0)
            group = groups.setdefault((scale, decays), {"params": [], "lr_scale": scale})
            group["params"].append(parameter)
            if not decays:
                group["weight_decay"] = 0.0
    return list(groups.values())


def fused(
    optimizer: Callable[[Any], Optimizer], device: torch.device
) -> Callable[[Any], Optimizer]:
    """Use the optimizer's fused kernel if it has one; it saves a quarter of a small net's step."""
    given = {"fused", "foreach", "differentiable"} & set(getattr(optimizer, "keywords", {}))
    has_fused = "fused" in inspect.signature(optimizer).parameters
    if device.type in ("cpu", "cuda") and has_fused and not given:
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
    steps_of_epoch = max(1, math.ceil(batches / task.trainer.accumulate_grad_batches))
    return max(1, math.ceil(steps / steps_of_epoch))


def _name(partial: Callable[..., Any]) -> str:
    return getattr(getattr(partial, "func", partial), "__name__", "")
