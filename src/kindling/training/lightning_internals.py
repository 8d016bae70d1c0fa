"""The private names of Lightning that Kindling depends on; no other file uses them.

All were read in Lightning 2.6.6, and pyproject.toml admits no later minor version: before it is
raised, compare each function with Lightning's source. Each says what the public interface lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from torchmetrics import Metric

from src.kindling.nn.meter import moved

# Given to ranks other than 0 in place of a logger's experiment; has no public name.
DummyExperiment = _DummyExperiment
# The fields of a logged value's metadata, beside its reduction and its synchronization.
METADATA = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def is_accumulating(trainer: Trainer) -> bool:
    """Whether gradients are accumulated: the current batch is not followed by an optimizer step.

    A checkpoint does not hold gradients. Read in Lightning 2.6.6: `_TrainingEpochLoop`.
    """
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the current batch is the epoch's last.

    `trainer.is_last_batch` is one of the two conditions.
    Read in Lightning 2.6.6: `_TrainingEpochLoop`.
    """
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def is_validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the current batch (`val_check_interval` and its relatives).

    Read in Lightning 2.6.6: `_TrainingEpochLoop`, which needs the fit loop's data fetcher.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def skips_backward(trainer: Trainer) -> bool:
    """Whether StochasticWeightAveraging runs its last epoch, for batch norm statistics only.

    Read in Lightning 2.6.6: `_FitLoop`.
    """
    return trainer.fit_loop._skip_backward


def end_restart(trainer: Trainer) -> None:
    """Step a plateau schedule at the end of a resumed epoch as well, where Lightning skips it.

    The public setter of `restarting` ignores False in a training limited by `max_steps`.
    Read in Lightning 2.6.6: `_FitLoop`.
    """
    trainer.fit_loop._restarting = False


def end_restart_of_all_loops(trainer: Trainer) -> None:
    """Begin an epoch from a checkpoint that was saved between epochs.

    Lightning would resume a training limited by `max_steps` within the epoch.
    Read in Lightning 2.6.6: `_Loop`.
    """
    fit_loop = trainer.fit_loop
    for loop in (fit_loop, fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop):
        loop._restarting = False


def logged_state(trainer: Trainer) -> dict[str, Any]:
    """Return the running averages of `self.log(on_epoch=True)`: CPU tensors and plain values.

    Lightning does not save them. Values with a process group of their own are left out.
    Read in Lightning 2.6.6: `_TrainingEpochLoop._results`.
    """
    return {
        key: _result_state(result)
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if not result.has_reset and result.meta.sync.group is None
    }


def restore_logged(
    trainer: Trainer, state: Mapping[str, Any], metrics: Mapping[str, Metric], device: torch.device
) -> None:
    """Restore what `logged_state` returned, before the first batch of a resumed epoch.

    Args:
        trainer: of the resumed training.
        state: as it was saved.
        metrics: the task's torchmetrics by name; a logged metric that is not among them is skipped.
        device: of the task.
    """
    results = trainer.fit_loop.epoch_loop._results
    for key, saved in state.items():
        if saved["state"] or saved["metric_attribute"] in metrics:
            results[key] = _restored_result(saved, trainer, metrics, device)
    # Lightning would reset the averages at the first batch of this process.
    trainer._logger_connector._first_loop_iter = False


def _result_state(result: _ResultMetric) -> dict[str, Any]:
    meta = result.meta
    state = {"value": result.value} if result.is_tensor else {}
    if result.is_tensor and meta.is_mean_reduction:
        state["cumulated_batch_size"] = result.cumulated_batch_size
    return {
        **{name: getattr(meta, name) for name in METADATA},
        "reduce_fx": meta.reduce_fx.__name__,
        "shared": meta.sync.should,
        "by_first": meta.sync.rank_zero_only,
        "state": moved(state, "cpu"),
        "last": moved(result._forward_cache, "cpu"),
        "updates": result._update_count,
    }


def _restored_result(
    saved: Mapping[str, Any], trainer: Trainer, metrics: Mapping[str, Metric], device: torch.device
) -> _ResultMetric:
    meta = _Metadata(reduce_fx=saved["reduce_fx"], **{name: saved[name] for name in METADATA})
    meta.sync = _Sync(
        _should=saved["shared"], fn=trainer.strategy.reduce, rank_zero_only=saved["by_first"]
    )
    result = _ResultMetric(meta, is_tensor=bool(saved["state"]))
    if result.is_tensor:
        for name, value in moved(saved["state"], device).items():
            setattr(result, name, value)
    else:
        result.value = metrics[saved["metric_attribute"]]
    result._forward_cache = moved(saved["last"], device)
    result._update_count = saved["updates"]
    return result.to(device)
