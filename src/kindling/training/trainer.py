"""Build the Trainer of a config with a run's callbacks and loggers, and measure with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger

from src.kindling.config import instantiate
from src.kindling.config.compose import Config
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.data.spec import Spec
from src.kindling.nn.additions import addition
from src.kindling.runs.redact import redact
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupts
from src.kindling.training import lightning_internals as internals
from src.kindling.training.build import attributes_of
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.checkpoint_folders import CheckpointFolders
from src.kindling.training.callbacks.nonfinite_guard import NonFiniteGuard
from src.kindling.training.callbacks.outcomes import Outcomes
from src.kindling.training.callbacks.progress import progress
from src.kindling.training.checkpoint_io import AtomicIO
from src.kindling.training.layer_trace import Layer
from src.kindling.training.loaders import Loaders
from src.kindling.training.monitor import Monitor, mode_of_callback
from src.kindling.training.resume import ResumeState
from src.kindling.training.run_loggers import (
    Curves,
    MetricsFiles,
    TensorBoard,
    continue_csv,
    guarded,
)
from src.kindling.training.seeding import Seeding
from src.kindling.training.stages import has_stage

MLFLOW_TAG = "kindling_run"
MUTED = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")


def build_trainer(
    config: Config,
    run: Run,
    task: LightningModule,
    data: LightningDataModule | None,
    monitor: Monitor,
    interrupts: Interrupts | None = None,
    resume_state: ResumeState | None = None,
    layers: Mapping[str, Layer] | None = None,
) -> Trainer:
    """The config's Trainer for a training, with the run's checkpoints and loggers."""
    values = instantiate.values(config)
    loaders = Loaders(values.seed, resume_state, values.max_fast_forward)
    checkpoint = Checkpoint(
        run.checkpoints,
        config,
        spec=addition(data, "spec", Spec),
        attributes=attributes_of(config, data),
        monitor=monitor.name,
        mode=monitor.mode,
        loaders=loaders,
        minutes=values.checkpoint_minutes,
        interrupts=interrupts,
        resume_state=resume_state,
    )
    callbacks = []
    for name, part in (instantiate.resolve(config).get("callbacks") or {}).items():
        if part:
            key, mode = f"callbacks.{name}", mode_of_callback(name, part, monitor, task)
            callbacks.append(instantiate.build(config, key, monitor=monitor.name, mode=mode))
    guard = NonFiniteGuard(values.max_nonfinite_steps, loaders)
    callbacks += [Seeding(values.seed), CheckpointFolders(), guard, Curves()]
    callbacks += [checkpoint, Outcomes(), progress(monitor.name, layers or {})]
    if config.values.get("finetune"):
        callbacks.append(instantiate.build(config, "finetune"))
    loggers = _build_loggers(config, run, resume_state)
    trainer = _trainer(config, data, callbacks, loggers, default_root_dir=run.path)
    loaders.attach(trainer)
    return trainer


def build_evaluator(config: Config, data: LightningDataModule | None, logger: Logger) -> Trainer:
    """Return the config's Trainer for measuring, without checkpoints; seeded."""
    seed = instantiate.values(config).seed
    trainer = _trainer(config, data, [Seeding(seed)], logger, enable_checkpointing=False)
    Loaders(seed).attach(trainer)
    return trainer


def _trainer(
    config: Config,
    data: LightningDataModule | None,
    callbacks: list[Any],
    logger: Any,
    **given: Any,
) -> Trainer:
    # Without a GPU, AdamW asks NVML for one in every step, which takes 0.28 of the 2.5 ms of a
    # small net's step: Lightning sets this to 1.
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    internals.report_ended_workers()
    trainer: Trainer = instantiate.build(
        config,
        "trainer",
        callbacks=callbacks,
        logger=logger,
        num_sanity_val_steps=0,
        # Kindling's data distributes its samples itself, so that each counts once.
        use_distributed_sampler=not isinstance(data, DataModule),
        plugins=[AtomicIO(given.get("default_root_dir"))],
        enable_progress_bar=False,
        enable_model_summary=False,
        **given,
    )
    return trainer


def _build_loggers(config: Config, run: Run, state: ResumeState | None) -> list[Logger]:
    """TensorBoard, metrics.csv, and the config's loggers, for a training that starts or resumes.

    TensorBoard is the first: it is `self.logger` of the task, for its `experiment`.
    """
    step, rows = (state.logged_step, state.rows) if state else (0, None)
    board = TensorBoard(run.path, name="", version="", default_hp_metric=False, purge_step=step)
    loggers: list[Logger] = [board, MetricsFiles(run.path, step, rows)]
    given = {"save_dir": run.path, "name": config.name}
    given |= {"version": run.logger_id, "run_name": run.logger_id}
    for name, part in (config.values.get("logger") or {}).items():
        if part:
            loggers.append(instantiate.build(config, f"logger.{name}", **given))
            if isinstance(loggers[-1], MLFlowLogger):  # many runs may have the user's `run_name`
                loggers[-1].tags = {**(loggers[-1].tags or {}), MLFLOW_TAG: run.logger_id}
            if state:
                _continue_logger(loggers[-1], run, step)
    return [guarded(logger, run.path) for logger in loggers]


def _continue_logger(logger: Logger, run: Run, step: int) -> None:
    """Have a logger continue its records of the run; others than these do so by their ID."""
    try:
        if isinstance(logger, CSVLogger):
            continue_csv(logger, step)
        elif isinstance(logger, MLFlowLogger):
            internals.continue_mlflow_run(logger, MLFLOW_TAG, run.logger_id)
    except Exception as error:  # of a file or a server
        problem = f"{type(logger).__name__}: {type(error).__name__}: {error}"
        print(f"{redact(problem)}; it begins a new record of the resumed run")


def measure(
    trainer: Trainer,
    task: LightningModule,
    data: LightningDataModule | None,
    stage: Stage,
    checkpoint: Path | None = None,
    epoch: int | None = None,
) -> dict[str, float]:
    """Return the metrics of one stage with the task's weights or a checkpoint's; log nothing.

    Prints which classes a mean leaves out, where the stage lacks some.

    Args:
        epoch: of the checkpoint, which the task reads as `current_epoch`.
    """
    if not has_stage(stage, data, task):
        return {}
    run = trainer.validate if stage == "val" else trainer.test
    with muted(trainer.loggers), internals.at_epoch(trainer, epoch):
        loaders = run(task, datamodule=data, verbose=False, ckpt_path=checkpoint, weights_only=True)
    for note in getattr(getattr(task, f"{stage}_meter", None), "notes", ()):
        print(note)
    found = {name: float(value) for metrics in loaders for name, value in metrics.items()}
    return dict(sorted(found.items()))


@contextmanager
def muted(loggers: Sequence[Logger]) -> Iterator[None]:
    """Drop what the Trainer logs; a task can still write to `self.logger.experiment`."""

    def drop(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        for logger in loggers:
            for name in MUTED:
                stack.enter_context(patch.object(logger, name, drop))
        yield


def finish_wandb(run_id: str, exit_code: int) -> None:
    """End the process's W&B run if it has this ID, or the next training's logger continues it."""
    active = getattr(sys.modules.get("wandb"), "run", None)
    if active is not None and active.id == run_id:
        try:
            active.finish(exit_code=exit_code)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"wandb: not finished: {reason}; upload the run with 'wandb sync'")
