"""The state of a training that Lightning's checkpoints leave out: collect and restore it.

It is the place within the epoch, the monitored values, the running averages of
`self.log(on_epoch=True)`, and the task's meters and torchmetrics.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torchmetrics import Metric

from src.kindling.nn.meter import Meter, moved
from src.kindling.training import lightning_internals as internals
from src.kindling.training.resume import FORM

# Where a training can be saved and resumed exactly.
Place = Literal["between epochs", "after a step", "before validation"]


def collect(trainer: Trainer, module: LightningModule, place: Place) -> dict[str, Any]:
    """Return the resume state as CPU tensors and plain values; all ranks call it together."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    meters, metrics = _metrics(module)
    collected = {
        "logged": internals.logged_state(trainer),
        "metrics": {
            name: {"state": moved(metric.metric_state, "cpu"), "updates": metric._update_count}
            for name, metric in metrics.items()
        },
    }
    return {
        "form": FORM,
        "place": place,
        "epoch": epochs.processed,
        "batch": 0 if place == "between epochs" else batches.ready,
        "step": trainer.global_step,
        "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
        "collected": _gather(trainer, collected),
        "meters": _gather(trainer, {name: meter.state() for name, meter in meters.items()}),
    }


def restore(trainer: Trainer, module: LightningModule, resume: dict[str, Any]) -> None:
    """Restore what `collect` returned, before the first batch."""
    trainer.callback_metrics.update(resume["metrics"])
    within_epoch = resume["place"] != "between epochs"
    rank, (meters, metrics) = trainer.global_rank, _metrics(module)
    if rank < len(resume["meters"]):  # there may be more ranks than when it was saved
        for name, meter in meters.items():
            meter.restore(resume["meters"][rank][name], module.device)
        if "collected" in resume:  # absent in checkpoints of earlier versions
            collected = resume["collected"][rank]
            for name in metrics.keys() & collected["metrics"].keys():
                saved = collected["metrics"][name]
                counts = {"_update_count": saved["updates"], "_computed": None}
                for key, value in {**moved(saved["state"], module.device), **counts}.items():
                    setattr(metrics[name], key, value)
            if within_epoch:
                internals.restore_logged(trainer, collected["logged"], metrics, module.device)
    if not within_epoch:
        internals.end_restart(trainer)
        return
    # It starts its schedule and its average at an epoch's start, which a resumed epoch lacks.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            callback.on_train_epoch_start(trainer, module)


def set_loop_progress(loops: dict[str, Any], place: Place) -> None:
    """Set the counters of Lightning's loops to what it expects for resuming at a place.

    Between epochs they depend on the hook that saved; before a validation it would count as done.
    """
    if place == "between epochs":
        for counter in loops["epoch_progress"].values():
            counter.update(dict.fromkeys(counter, counter["processed"]))
        batches = loops["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["total"] = dict.fromkeys(batches["total"], batches["total"]["completed"])
        batches["is_last_batch"] = False
    elif place == "before validation":
        # A validation that has started, without a completed batch.
        started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation.update(total=dict(started), current=dict(started), is_last_batch=False)


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
