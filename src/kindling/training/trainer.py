"""Build the Trainer of a config with a run's callbacks and loggers, and measure with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from src.kindling.config import instantiate
from src.kindling.config.compose import Config, get
from src.kindling.data.data_module import DataModule
from src.kindling.data.spec import Spec
from src.kindling.runs.files import as_floats
from src.kindling.runs.run import Run
from src.kindling.training.build import attributes_of
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.nonfinite_guard import NonFiniteGuard
from src.kindling.training.callbacks.progress import progress
from src.kindling.training.checkpoint_io import AtomicIO
from src.kindling.training.loggers import muted
from src.kindling.training.monitor import Monitor, mode_of_callback
from src.kindling.training.repeatable import Seeding, make_repeatable
from src.kindling.training.run_loggers import Curves, MetricsFile, TensorBoard, guarded
from src.kindling.training.speed import NullProfiler, look_for_gpus_once
from src.kindling.training.stages import has_stage

if TYPE_CHECKING:
    from src.kindling.data.samples import Stage
    from src.kindling.runs.signals import Interrupts
    from src.kindling.training.resume import ResumeState


def build_trainer(
    config: Config,
    run: Run,
    task: LightningModule,
    data: LightningDataModule | None,
    monitor: Monitor,
    interrupts: Interrupts | None = None,
    resume_state: ResumeState | None = None,
) -> Trainer:
    """The config's Trainer for a training, with the run's checkpoints and loggers."""
    values = instantiate.values(config)
    spec = getattr(data, "spec", None)
    attributes = attributes_of(config, data)
    checkpoint = Checkpoint(
        run.checkpoints,
        config,
        spec=spec if isinstance(spec, Spec) else None,
        attributes=attributes,
        monitor=monitor.name,
        mode=monitor.mode,
        minutes=values.checkpoint_minutes,
        interrupts=interrupts,
        resume_state=resume_state,
    )
    shown_by, on_terminal = progress(monitor.name)
    callbacks = _own_callbacks(config, monitor, task)
    callbacks += [
        Seeding(values.seed),
        NonFiniteGuard(values.max_nonfinite_steps),
        Curves(),
        checkpoint,
    ]
    callbacks += shown_by
    if config.values.get("finetune"):
        callbacks.append(instantiate.build(config, "finetune"))
    loggers = _loggers(config, run, resume_state.step if resume_state else 0)
    return _trainer(
        config,
        data,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=run.path,
        enable_checkpointing=True,
        enable_progress_bar=on_terminal,
        enable_model_summary=on_terminal,
    )


def build_evaluator(config: Config, data: LightningDataModule | None) -> Trainer:
    """Return the config's Trainer for measuring, without loggers and checkpoints; seeded."""
    trainer = _trainer(
        config,
        data,
        callbacks=[Seeding(instantiate.values(config).seed)],
        logger=DummyLogger(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    make_repeatable(trainer, instantiate.values(config).seed)
    return trainer


def _trainer(config: Config, data: LightningDataModule | None, **given: Any) -> Trainer:
    look_for_gpus_once()
    if not get(config.values, "trainer.profiler"):
        given["profiler"] = NullProfiler()
    trainer: Trainer = instantiate.build(
        config,
        "trainer",
        num_sanity_val_steps=0,
        # Kindling's data share their samples themselves, so that each counts once.
        use_distributed_sampler=not isinstance(data, DataModule),
        plugins=[AtomicIO()],
        **given,
    )
    return trainer


def _own_callbacks(config: Config, monitor: Monitor, task: LightningModule) -> list[Callback]:
    """The callbacks of the config."""
    callbacks: list[Callback] = []
    for name, part in (instantiate.resolve(config).get("callbacks") or {}).items():
        if part:
            mode = mode_of_callback(name, part, monitor, task)
            key = f"callbacks.{name}"
            callbacks.append(instantiate.build(config, key, monitor=monitor.name, mode=mode))
    return callbacks


def _loggers(config: Config, run: Run, step: int) -> list[Logger]:
    """TensorBoard, metrics.csv, and the loggers of the config.

    TensorBoard is the first: it is `self.logger` of the task, for its `experiment`.
    """
    board = TensorBoard(run.path, name="", version="", default_hp_metric=False, purge_step=step)
    loggers: list[Logger] = [board, MetricsFile(run.path / "metrics.csv", step)]
    given = {"save_dir": run.path, "name": config.name}
    given |= {"version": run.logger_id, "run_name": run.logger_id}
    for name, part in (config.values.get("logger") or {}).items():
        if part:
            loggers.append(instantiate.build(config, f"logger.{name}", **given))
    return [guarded(logger) for logger in loggers]


def measure(
    trainer: Trainer,
    task: LightningModule,
    data: LightningDataModule | None,
    stage: Stage,
    checkpoint: Path | None = None,
) -> dict[str, float]:
    """Return the metrics of one stage with the task's weights or a checkpoint's; log nothing.

    Prints which classes a mean leaves out, where the stage lacks some.
    """
    if not has_stage(stage, data, task):
        return {}
    with muted(trainer.loggers):
        run = trainer.validate if stage == "val" else trainer.test
        measured = run(
            task, datamodule=data, verbose=False, ckpt_path=checkpoint, weights_only=True
        )
    for note in getattr(getattr(task, f"{stage}_meter", None), "notes", ()):
        print(note)
    return as_floats({name: value for found in measured for name, value in found.items()})
