"""The state of a training that Lightning's checkpoints leave out: collect and restore it.

It is the place within the epoch, the monitored values, the running averages of
`self.log(on_epoch=True)`, and the task's meters and torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torchmetrics import Metric

from src.kindling.nn.meter import Meter, metric_state, restore_metric
from src.kindling.training import lightning_internals as internals
from src.kindling.training.resume import FORM
from src.kindling.training.run_loggers import MetricsFiles, steps_done

# Where a training can be saved and resumed exactly.
Place = Literal["between epochs", "after a step", "before validation"]


def collect(
    trainer: Trainer,
    module: LightningModule,
    place: Place,
    collect_loaders: Callable[[int], dict[str, Any]],
) -> dict[str, Any]:
    """Return the resume state as CPU tensors and plain values; all ranks call it together.

    Args:
        place: between epochs, no batch of the epoch was trained on.
        collect_loaders: returns what the loaders need after so many batches of the epoch.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    batch = 0 if place == "between epochs" else batches.ready
    meters, metrics = _metrics(module)
    collected = {
        **collect_loaders(batch),
        "logged": internals.logged_state(trainer),
        "metrics": {name: metric_state(metric) for name, metric in metrics.items()},
    }
    return {
        "form": FORM,
        "place": place,
        "epoch": epochs.processed,
        "batch": batch,
        "step": trainer.global_step,
        "logged_step": steps_done(trainer),
        "rows": sum(
            len(one.steps.rows) for one in trainer.loggers if isinstance(one, MetricsFiles)
        ),
        "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
        "collected": _gather(trainer, collected),
        "gradients": _gradients(module),
        "validated": dict(internals.validated_batches(trainer)),
        "meters": _gather(trainer, {name: meter.state() for name, meter in meters.items()}),
    }


def restore(
    trainer: Trainer,
    module: LightningModule,
    resume: dict[str, Any],
    restarted: bool,
) -> None:
    """Restore the state that `collect` returned, before the first batch.

    Args:
        restarted: the epoch starts again, so that its running averages are left out.
    """
    trainer.callback_metrics.update(resume["metrics"])
    within_epoch = resume["place"] != "between epochs" and not restarted
    rank, (meters, metrics) = trainer.global_rank, _metrics(module)
    collected = collected_by(resume, rank)
    logged, saved = collected.get("logged", {}), dict(collected.get("metrics", {}))
    for value in logged.values() if restarted else ():
        saved.pop(value["metric_attribute"], None)
    for name in metrics.keys() & saved.keys():
        restore_metric(metrics[name], saved[name], module.device)
    if within_epoch:
        internals.restore_logged(trainer, logged, metrics, module.device)
    if not restarted and rank < len(resume["meters"]):
        for name, meter in meters.items():
            meter.restore(resume["meters"][rank][name], module.device)
    parameters = dict(module.named_parameters())
    for name, gradient in resume.get("gradients", {}).items() if not restarted else ():
        parameters[name].grad = gradient.to(parameters[name].device)
    internals.validated_batches(trainer).update(resume.get("validated", {}))
    internals.align_reloads(trainer)
    if not within_epoch:
        internals.end_restart(trainer)
        return
    # It starts its schedule and its average at an epoch's start, which a resumed epoch lacks.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            callback.on_train_epoch_start(trainer, module)


def collected_by(resume: dict[str, Any], rank: int) -> dict[str, Any]:
    """The state that a rank collected; empty for a rank that did not exist."""
    by_rank: list[dict[str, Any]] = resume.get("collected", [])
    return by_rank[rank] if rank < len(by_rank) else {}


def _gradients(module: LightningModule) -> dict[str, torch.Tensor]:
    """The gradients that manual optimization accumulates over batches, by parameter."""
    if module.automatic_optimization:  # saved only where there are none
        return {}
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: grad.detach().cpu() for name, grad in gradients.items() if grad is not None}


def set_loop_progress(loops: dict[str, Any], place: Place) -> None:
    """Set the counters of Lightning's loops as it expects them for resuming at a place.

    Between epochs they depend on the hook that saved; before a validation it would count as done.
    """
    # The states of loaders that Lightning has read ahead of what was trained on.
    loops["state_dict"].pop("combined_loader", None)
    batches = loops["epoch_loop.batch_progress"]
    if place == "between epochs":
        for counter in loops["epoch_progress"].values():
            counter.update(dict.fromkeys(counter, counter["processed"]))
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["total"] = dict.fromkeys(batches["total"], batches["total"]["completed"])
        batches["is_last_batch"] = False
    elif place == "after a step":  # saved after the hook `on_train_batch_end`; resumed from it
        for counter in (batches["total"], batches["current"]):
            counter["completed"] -= 1
    elif place == "before validation":
        # A validation that has started, without a completed batch.
        started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation.update(total=dict(started), current=dict(started), is_last_batch=False)


def restart_epoch(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Begin the epoch of a resumed training again, while Lightning loads its data.

    Args:
        checkpoint: which Lightning restores later, if `configure_optimizers` asked for the data.
    """
    set_loop_progress(checkpoint["loops"]["fit_loop"], "between epochs")
    loops: dict[str, Any] = trainer.fit_loop.state_dict()
    set_loop_progress(loops, "between epochs")
    trainer.fit_loop.load_state_dict(loops)
    internals.end_restart(trainer)


def _metrics(module: LightningModule) -> tuple[dict[str, Meter], dict[str, Metric]]:
    """Return the training's meters, and the torchmetrics that are in no meter, by name."""
    parts = dict(module.named_modules())
    meters = {name: part for name, part in parts.items() if isinstance(part, Meter)}
    inside = tuple(f"{name}." for name in meters)
    metrics = {name: part for name, part in parts.items() if isinstance(part, Metric)}
    return (
        {name: meter for name, meter in meters.items() if meter.stage == "train"},
        {name: part for name, part in metrics.items() if not name.startswith(inside)},
    )


def _gather(trainer: Trainer, value: Any) -> list[Any]:
    """Return the values of all ranks."""
    if trainer.world_size == 1:
        return [value]
    values = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
