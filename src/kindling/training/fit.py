"""Train a config and measure its best checkpoint, leaving a run in logs/."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError, TrainingError
from src.kindling.runs.files import shown
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from src.kindling.data.samples import Stage
    from src.kindling.training.prepare import Drawer, Training
    from src.kindling.training.trained_run import TrainedRun


@dataclass(frozen=True)
class Result:
    """What a training returns.

    Attributes:
        run: its directory.
        metrics: the final numbers of the best checkpoint, by name: `test/accuracy`.
        score: the best value of what is monitored; None where nothing is.
        seconds: from the first line of `fit` to its last.
    """

    run: TrainedRun
    metrics: dict[str, float]
    score: float | None
    seconds: float


def fit(
    config: Config,
    run: Run,
    stages: Sequence[Stage] = ("val", "test"),
    init: TrainedRun | None = None,
    resume: bool = False,
    override: bool = False,
    plots: Drawer | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a config and measure its best checkpoint; may be called many times in one process.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        run: a new directory, from `Run.claim`; or, to resume, one that was trained before.
        stages: what to measure at the end; search trials and folds leave out `test`.
        init: a run whose weights to begin with, where names and shapes agree.
        resume: continue from the run's newest whole checkpoint, exactly as if it had never stopped.
        override: accept config and data changes of a resumed run.
        plots: draws plots/ and report.html at the end; None leaves them out.
        callbacks: further ones, which are not recorded.

    Raises:
        InputError: when the data or a constructor refuses a value; nothing was trained.
        TrainingError: when the training fails in a way that has a remedy.
        Interrupted: when a signal ended the training, which was saved.
    """
    from src.kindling.training.error_hints import advise
    from src.kindling.training.prepare import prepare, record_start
    from src.kindling.training.run_lock import lock_run
    from src.kindling.training.warning_filters import quiet

    quiet()
    with lock_run(run, config.values), Interrupts() as interrupts:
        try:
            training = prepare(config, run, interrupts, init, resume, override, plots, callbacks)
            record_start(training, resume)
            with frozen_heap(), recorded(training):
                train(training)
                measure_best(training, stages)
                draw(training, stages)
        except OSError as error:  # before the first step, or after the last
            if lines := advise(error, config, run):
                raise InputError(lines) from error
            raise
    return _result(training)


def train(training: Training) -> None:
    """Fit the task; best.ckpt and last.ckpt are saved on the way."""
    task, trainer, state = training.task, training.trainer, training.resume_state
    if training.config.values["compile"]:
        net: Any = getattr(task, "net", task)
        net.compile()  # the module itself, which keeps the names in its state dict
    if training.plots and trainer.is_global_zero:
        training.plots.draw_before(task, training.data)
    path = state.path if state else None
    trainer.fit(task, datamodule=training.data, ckpt_path=path, weights_only=True)
    # Not by the file's existence: another rank may be writing it, and all have to save together.
    if state is None and not training.checkpoint.saved_last:  # there was nothing to train
        trainer.save_checkpoint(training.checkpoint.last)


def measure_best(training: Training, stages: Sequence[Stage]) -> None:
    """Measure the best checkpoint, or the last weights where nothing is monitored."""
    import torch
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    from src.kindling.runs.checkpoint_file import read_checkpoint
    from src.kindling.training.run_loggers import MetricsFile
    from src.kindling.training.trainer import measure

    task, trainer, checkpoint = training.task, training.trainer, training.checkpoint
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        # Where no norm layer makes an epoch of it, nothing has measured the average yet.
        measured = measure(trainer, task, training.data, "val")
        if checkpoint.monitor in measured:
            checkpoint.compare(trainer, torch.tensor(measured[checkpoint.monitor]))
    if checkpoint.best.exists():
        state = read_checkpoint(checkpoint.best)["state_dict"]
        task.load_state_dict(state, strict=task.strict_loading)
    elif trainer.global_step and checkpoint.monitor:
        reason = f"{checkpoint.monitor} was never a finite number"
        print(f"no best checkpoint: {reason}; the metrics are of the last weights")
    for stage in stages:
        training.metrics |= measure(trainer, task, training.data, stage)
    test = {name: value for name, value in training.metrics.items() if name.startswith("test")}
    for logger in trainer.loggers:
        if not isinstance(logger, MetricsFile):  # which holds epochs; metrics.json holds these
            logger.log_metrics(test, step=trainer.global_step)
    training.interrupts.watched = False  # nobody looks any more
    if training.interrupts.received is not None:
        training.interrupts.stop()
    training.ending = {"exit": "finished"}


def draw(training: Training, stages: Sequence[Stage]) -> None:
    """Draw the plots of the best checkpoint."""
    if training.plots and training.trainer.is_global_zero:
        stage: Stage = "test" if "test" in stages else "val"
        training.plots.draw(
            training.task, training.data, stage, training.monitor, training.trainer.loggers
        )


@contextmanager
def recorded(training: Training) -> Iterator[None]:
    """Record how the training within ends, and turn known errors into a line of advice."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from src.kindling.training.error_hints import advise

    try:
        yield
    except Interrupted as interrupted:
        training.ending = {"exit": "interrupted", "by": interrupted.name}
        raise
    except InputError as error:
        training.ending = {"exit": "failed", "error": "\n".join(error.lines)}
        raise
    except Exception as error:
        training.ending = {"exit": "failed", "error": f"{type(error).__name__}: {error}"}
        if isinstance(error, MisconfigurationException):
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        stage = training.checkpoint.failed_in
        if lines := advise(error, training.config, training.run, stage):
            raise TrainingError(lines) from error
        raise
    finally:
        record_end(training)


def record_end(training: Training) -> None:
    """Close the loggers; write meta.json, metrics.json and the report."""
    from src.kindling.training.loggers import finish_wandb
    from src.kindling.training.run_loggers import TensorBoard

    run, trainer, exit_ = training.run, training.trainer, training.ending["exit"]
    training.interrupts.watched = False
    final_notes = getattr(training.data, "final_notes", None)
    for note in final_notes() if final_notes else ():
        print(note)
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoard):
            logger.finalize("success")
            continue
        if training.metrics:
            logger.log_result(training.config, training.metrics, trainer.global_step)
        logger.close()
    if trainer.is_global_zero:
        seconds = round(time.perf_counter() - training.started, 3)
        facts = {"epochs": trainer.current_epoch, **training.ending}
        facts |= {"monitor": training.checkpoint.monitor, "mode": training.checkpoint.mode}
        try:
            run.finish(training.config, training.metrics, seconds, facts)
        except OSError as error:
            if exit_ == "finished":
                raise
            print(f"{shown(run.path)}: how it ended could not be written: {error.strerror}")
        if training.plots and exit_ != "interrupted":
            training.plots.write_report()
    finish_wandb(run.logger_id, exit_code=0 if exit_ == "finished" else 1)


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keep what the imports left on the heap from the garbage collector, which need not walk it.

    A study's worker has frozen it for all its trainings.
    """
    frozen = gc.get_freeze_count() > 0
    gc.collect()
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def _result(training: Training) -> Result:
    from src.kindling.training.trained_run import TrainedRun

    score = training.checkpoint.best_score
    seconds = round(time.perf_counter() - training.started, 3)
    best = None if score is None else float(score)
    return Result(TrainedRun.of(training.run), training.metrics, best, seconds)
