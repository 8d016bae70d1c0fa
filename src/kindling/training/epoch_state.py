"""What a task has collected since the epoch began, and Lightning's checkpoints leave out: saved and restored.

These are the averages of `self.log(on_epoch=True)`, and the states of torchmetrics that are attributes of the task. Reads
private attributes of Lightning 2.6.6: the training loop's `_results`, and the logger connector's `_first_loop_iter`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torchmetrics import Metric

from src.kindling.nn.meter import Meter, moved

# What describes a logged value, beside how it is shared between processes.
DESCRIPTION = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
               "dataloader_idx", "metric_attribute")  # fmt: skip


def collected(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Tensors and plain values on the CPU, for `restore`."""
    logged = trainer.fit_loop.epoch_loop._results
    return {
        "logged": {key: _saved(result) for key, result in logged.items() if not result.has_reset and _can_be(result)},
        "metrics": {
            name: {"state": moved(metric.metric_state, "cpu"), "updates": metric._update_count}
            for name, metric in _own_metrics(module)
        },
    }


def restore(trainer: Trainer, module: LightningModule, state: dict[str, Any], within_epoch: bool) -> None:
    """Give a task and its training back what `collected` returned, before the first batch.

    Args:
        trainer, module: of the resumed training.
        state: as it was saved.
        within_epoch: whether the training resumes within an epoch; else the logged values are of one that has ended.
    """
    for name, metric in _own_metrics(module):
        if name in state["metrics"]:
            for key, value in moved(state["metrics"][name]["state"], module.device).items():
                setattr(metric, key, value)
            metric._update_count = state["metrics"][name]["updates"]
            metric._computed = None
    if not within_epoch:
        return
    results = trainer.fit_loop.epoch_loop._results
    for key, saved in state["logged"].items():
        if (result := _restored(saved, trainer, module)) is not None:
            results[key] = result
    # Lightning would begin the averages again at the first batch it sees.
    trainer._logger_connector._first_loop_iter = False


def _own_metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    """The task's torchmetrics by name; a meter saves those within it."""
    meters = [f"{name}." for name, part in module.named_modules() if isinstance(part, Meter)]
    for name, part in module.named_modules():
        if isinstance(part, Metric) and not name.startswith(tuple(meters)):
            yield name, part


def _can_be(result: _ResultMetric) -> bool:
    """Whether a logged value can be described by plain values: not if it is shared in a group of processes."""
    return result.meta.sync.group is None


def _saved(result: _ResultMetric) -> dict[str, Any]:
    meta = result.meta
    saved = {name: getattr(meta, name) for name in DESCRIPTION}
    saved |= {"reduce_fx": meta.reduce_fx.__name__, "shared": meta.sync.should, "by_first": meta.sync.rank_zero_only}
    state = {"value": result.value} if result.is_tensor else {}
    if result.is_tensor and meta.is_mean_reduction:
        state["cumulated_batch_size"] = result.cumulated_batch_size
    return saved | {
        "state": moved(state, "cpu"),
        "last": moved(result._forward_cache, "cpu"),
        "updates": result._update_count,
    }


def _restored(saved: dict[str, Any], trainer: Trainer, module: LightningModule) -> _ResultMetric | None:
    """The value as Lightning would have it; None for a metric that the task no longer has."""
    meta = _Metadata(reduce_fx=saved["reduce_fx"], **{name: saved[name] for name in DESCRIPTION})
    meta.sync = _Sync(_should=saved["shared"], fn=trainer.strategy.reduce, rank_zero_only=saved["by_first"])
    result = _ResultMetric(meta, is_tensor=bool(saved["state"]))
    if result.is_tensor:
        for name, value in moved(saved["state"], module.device).items():
            setattr(result, name, value)
    else:
        metric = dict(_own_metrics(module)).get(saved["metric_attribute"])
        if metric is None:
            return None
        result.value = metric
    result._forward_cache = moved(saved["last"], module.device)
    result._update_count = saved["updates"]
    return result.to(module.device)
