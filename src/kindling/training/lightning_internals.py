"""The private names of Lightning and torch that Kindling depends on; no other file uses them.

All were read in Lightning 2.6.6 (`_TrainingEpochLoop`, `_FitLoop`, `_ResultCollection`,
`MLFlowLogger`), the last minor version that pyproject.toml admits: before it is raised, compare
each with Lightning's source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler
from torchmetrics import Metric

from src.kindling.nn.meter import metric_state, moved, restore_metric

# The arguments of a logged value that are attributes of its metadata under the same name.
SHOWN_IN = ("prog_bar", "logger", "on_step", "on_epoch")
LOG_ARGUMENTS = ("fx", "name", *SHOWN_IN, "enable_graph", "add_dataloader_idx", "metric_attribute")


def report_ended_workers() -> None:
    """Have torch say how a data worker ended, in all trainings of this process.

    torch 2.11 to 2.15 sets its handler with the first worker, and once only; Lightning resets all
    handlers that were set during a training.
    """
    _set_SIGCHLD_handler()


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the current batch is not followed by an optimizer step: gradients are accumulated."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_resumable(trainer: Trainer) -> bool:
    """Whether a checkpoint saved after the current batch resumes exactly.

    It does not hold accumulated gradients. On an epoch's or a training's last batch, or where a
    validation is due, Lightning would leave out what follows.
    """
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return not (
        is_accumulating(trainer)
        or trainer.should_stop
        or loop._is_training_done
        or loop._should_check_val_fx(fetcher)
    )


def configure_optimizers(
    module: LightningModule,
) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """What a module's `configure_optimizers` makes, in whichever form it returns that."""
    return _init_optimizers_and_lr_schedulers(module)


def skips_backward(trainer: Trainer) -> bool:
    """Whether StochasticWeightAveraging runs its last epoch, for batch norm statistics only."""
    return trainer.fit_loop._skip_backward


def end_restart(trainer: Trainer) -> None:
    """Treat a resumed epoch as any other, from the start of an epoch or from its end.

    The public setter of `restarting` ignores False in a training limited by `max_steps`: Lightning
    would start within an epoch, and not step a plateau schedule at its end.
    """
    fit_loop = trainer.fit_loop
    for loop in (fit_loop, fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop):
        loop._restarting = False


@contextmanager
def at_reload_epoch(owner: Any) -> Iterator[int]:
    """Show the epoch in which an uninterrupted training would have loaded the current data.

    A resumed training loads its data in a later epoch, which `train_dataloader` could read from
    `trainer.current_epoch`.

    Args:
        owner: a module or a data module; one that is not being fitted is at epoch 0.
    """
    try:
        trainer = owner.trainer
    except RuntimeError:  # a module without one
        trainer = None
    if trainer is None or trainer.state.fn != TrainerFn.FITTING:
        yield 0
        return
    progress = trainer.fit_loop.epoch_progress.current
    now, progress.completed = progress.completed, _reload_epoch(trainer)
    try:
        yield progress.completed
    finally:
        progress.completed = now


@contextmanager
def at_epoch(trainer: Trainer, epoch: int | None) -> Iterator[None]:
    """Show an epoch as `current_epoch`; None changes nothing."""
    progress = trainer.fit_loop.epoch_progress.current
    now = progress.completed
    progress.completed = now if epoch is None else epoch
    try:
        yield
    finally:
        progress.completed = now


def align_reloads(trainer: Trainer) -> None:
    """Reload the data of a resumed training in the epochs of an uninterrupted one."""
    fit_loop = trainer.fit_loop
    fit_loop._last_train_dl_reload_epoch = _reload_epoch(trainer)
    fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = _reload_epoch(trainer)


def _reload_epoch(trainer: Trainer) -> int:
    every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    return trainer.current_epoch // every * every if every else 0


def after_each_batch(trainer: Trainer, then: Callable[[], None]) -> None:
    """Call a function after each training batch, when its values are logged.

    Lightning logs them after all hooks: one that saved a checkpoint would leave them out.
    """
    connector = trainer._logger_connector
    log = connector.update_train_step_metrics

    def log_and_call() -> None:
        log()
        then()

    connector.update_train_step_metrics = log_and_call  # type: ignore[method-assign]


def validated_batches(trainer: Trainer) -> dict[int, int]:
    """The number of batches of each validation loader in all epochs: the steps of its logs."""
    return trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader


def training_loaders(trainer: Trainer) -> list[Any]:
    """The loaders that the training reads, in Lightning's order."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else combined.flattened


def logged_state(trainer: Trainer) -> dict[str, Any]:
    """Return the running averages of `self.log(on_epoch=True)`: CPU tensors and plain values.

    Lightning does not save them. Values with a process group of their own are left out.
    """
    return {
        key: {
            **{name: getattr(result.meta, name) for name in LOG_ARGUMENTS},
            "reduce_fx": result.meta.reduce_fx.__name__,
            "shared": result.meta.sync.should,
            "by_first": result.meta.sync.rank_zero_only,
            **metric_state(result),  # empty for a logged torchmetrics object
            "last": moved(result._forward_cache, "cpu"),
        }
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if not result.has_reset and result.meta.sync.group is None
    }


def restore_logged(
    trainer: Trainer, state: Mapping[str, Any], metrics: Mapping[str, Metric], device: torch.device
) -> None:
    """Restore the averages that `logged_state` returned, before the first batch of a resumed epoch.

    Args:
        metrics: the task's torchmetrics by name; a logged one that is not among them is skipped.
        device: of the task.
    """
    results = trainer.fit_loop.epoch_loop._results
    for key, saved in state.items():
        value: Any = metrics.get(saved["metric_attribute"])
        if saved["state"]:
            value = torch.zeros((), device=device)
        if value is None:
            continue
        arguments = {name: saved[name] for name in LOG_ARGUMENTS}
        arguments |= {"reduce_fx": saved["reduce_fx"], "rank_zero_only": saved["by_first"]}
        results.log(value=value, batch_size=1, **arguments)
        result = results[key]
        result.meta.sync.fn = trainer.strategy.reduce
        result.meta.sync.should = saved["shared"]
        restore_metric(result, saved, device)
        result._forward_cache = moved(saved["last"], device)
    # Lightning would reset the averages at the first batch of this process.
    trainer._logger_connector._first_loop_iter = False


@rank_zero_only
def continue_mlflow_run(logger: MLFlowLogger, tag: str, run_id: str) -> None:
    """Have the logger continue the run that has this tag; by itself, it would begin another."""
    client = logger._mlflow_client
    experiment = client.get_experiment_by_name(logger._experiment_name)
    if experiment is not None and logger._run_id is None:
        tagged = f"tags.{tag} = '{run_id}'"
        for run in client.search_runs([experiment.experiment_id], tagged):
            logger._run_id = run.info.run_id
