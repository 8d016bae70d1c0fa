"""Train an experiment: fit it, test the best checkpoint, and leave a run in logs/.

    python -m src.train [CONFIG] [key=value ...] [--init RUN] [--resume RUN] [--override] [--no-pictures] [--no-test]
    python -m src.train [CONFIG] [key=value ...] --seeds 0,1,2 [--workers 2] [--storage URL] [--name NAME] [--retry] [--pictures]
    python -m src.train [CONFIG] [key=value ...] --find lr|batch_size

The heavy imports stand inside the functions, so that help and first mistakes are told before torch is loaded.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from src.kindling.config.compose import VALUES, Config
from src.kindling.config.errors import InputError, counting
from src.kindling.runs.files import shown, write
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from src.kindling.data.batch import Stage
    from src.kindling.training.trained_run import TrainedRun


class Drawer(Protocol):
    """Draws the plots and the report of a run: `src.kindling.analysis.plots.Plots`."""

    @property
    def callbacks(self) -> Sequence[Callback]: ...

    def draw(self, task: Any, data: Any, stage: Stage, loggers: Sequence[Any] = ()) -> object: ...

    def write_report(self) -> object: ...


@dataclass(frozen=True)
class Result:
    """What a training returns.

    Attributes:
        run: its directory.
        metrics: the final numbers of the best checkpoint, by name: `test/accuracy`.
        score: the best value of what the task monitors.
        seconds: from the first line of `fit` to its last.
    """

    run: TrainedRun
    metrics: dict[str, float]
    score: float | None
    seconds: float


def fit(
    config: Config, run: Run, stages: Sequence[Stage] = ("val", "test"), init: TrainedRun | None = None,
    resume: bool = False, override: bool = False, plots: Drawer | None = None, callbacks: Sequence[Callback] = (),
) -> Result:  # fmt: skip
    """Train a config and measure its best checkpoint. May be called any number of times in one process.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        run: a directory of its own, from `Run.claim`; or, to go on with, one that was trained before.
        stages: what to measure at the end; search trials and folds leave out `test`.
        init: a run whose weights to begin with, where names and shapes agree.
        resume: go on from the run's newest whole checkpoint, to the last digit as if it had never stopped.
        override: what differs from the run's own config and data is meant, and takes effect.
        plots: draws plots/ and report.html at the end; None leaves them out.
        callbacks: further ones, which are not recorded.

    Raises:
        InputError: when the data or a constructor refuses a value (nothing was trained then), or when training ends
            in a way that has a remedy.
        Interrupted: when a signal ended the training, which was saved.
    """
    from src.kindling.training.error_hints import advise
    from src.kindling.training.resume import owned

    with owned(run, config.values), Interrupts() as interrupts:
        try:
            return _fit(config, run, stages, init, interrupts, resume, override, plots, callbacks)
        except OSError as error:  # before the first step, or after the last
            if lines := advise(error, config, run):
                raise InputError(lines) from error
            raise


def _fit(
    config: Config, run: Run, stages: Sequence[Stage], init: TrainedRun | None, interrupts: Interrupts, resume: bool,
    override: bool, plots: Drawer | None, callbacks: Sequence[Callback],
) -> Result:  # fmt: skip
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    from src.kindling.config import instantiate
    from src.kindling.runs.checkpoint_file import read_checkpoint
    from src.kindling.training.build import build_data, build_task
    from src.kindling.training.callbacks.checkpoint import Checkpoint
    from src.kindling.training.callbacks.metrics_file import MetricsFile
    from src.kindling.training.callbacks.tensorboard import TensorBoard
    from src.kindling.training.error_hints import advise
    from src.kindling.training.loggers import finish_wandb
    from src.kindling.training.monitor import set_mode
    from src.kindling.training.rehearsal import preflight
    from src.kindling.training.resume import Saved
    from src.kindling.training.speed import choose
    from src.kindling.training.trained_run import TrainedRun
    from src.kindling.training.trainer import build_trainer, measure
    from src.kindling.training.transfer import take_weights
    from src.kindling.training.warning_filters import quiet

    started = time.perf_counter()
    quiet()
    if not resume:
        instantiate.check_training(config)
    values = instantiate.values(config)
    # The run records what was filled in, so that another machine repeats it; references stay references.
    filled = {key: value for key, value in dataclasses.asdict(values).items() if config.values.get(key) is None}
    config = config.replaced(filled, origin="a default")
    saved = Saved.newest(run, config, override) if resume else None
    torch.set_num_threads(values.threads or 1)
    data = build_data(config)
    config = config.replaced(choose(config, data), origin="a default")
    if saved:
        saved.check_data(data)
        data.position = saved.position
    seed_everything(values.seed, verbose=False)
    task = build_task(config, data.spec, data.augment, begin=saved is None)
    if saved:
        saved.check_fits(task, run, config)
    for name in ("monitor", "mode", "net"):
        if not hasattr(task, name):
            raise InputError(f"task: {type(task).__name__} has no '{name}'; a task has net, monitor and mode")
    set_mode(task, config.values["task"])
    taken = take_weights(task, init) if init else None
    trainer = build_trainer(config, run, task, data.spec, interrupts, saved)
    trainer.callbacks += callbacks  # type: ignore[attr-defined]
    if plots:
        trainer.callbacks[:0] = plots.callbacks  # type: ignore[attr-defined]
    parameters = sum(parameter.numel() for parameter in task.parameters())
    if trainer.is_global_zero:
        preflight(run, data, task)
        write(run.path / "split.csv", data.split_csv())
        run.begin(config, {
            **{key: config.values.get(key) for key in VALUES}, "split_hash": data.split_hash(),
            "data_hash": data.content_hash(), "parameters": parameters, "monitor": task.monitor, "mode": task.mode,
            "init": taken, "override": saved is not None and saved.renewed,
        }, again=resume)  # fmt: skip
    if config.values["compile"]:
        task.net.compile()  # type: ignore[union-attr]  # the module itself, which keeps the names in its state dict
    sizes = ", ".join(f"{len(index):,} {stage}" for stage, index in data.indices.items())
    print(
        f"{config.name}: {type(task.net).__name__} with {parameters:,} parameters on {trainer.strategy.root_device}; {sizes}"
    )
    print("speed: " + ", ".join(_speed(config, data, trainer, task)))
    of_net, of_task = (getattr(part, "notes", []) for part in (task.net, task))
    for note in [*data.notes, *of_net, *of_task, *(saved.notes if saved else [])]:
        print(note)
    # What the imports left on the heap lives as long as the process; the collector need not walk it in every round.
    frozen = gc.get_freeze_count() > 0  # by a study's worker, for all its trainings
    gc.collect()
    if not frozen:
        gc.freeze()
    metrics: dict[str, float] = {}
    loggers = trainer.loggers
    checkpoint = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoint))  # type: ignore[attr-defined]
    ending = {"exit": "failed"}
    try:
        trainer.fit(task, datamodule=data, ckpt_path=saved.path if saved else None, weights_only=True)
        if not checkpoint.last.exists():  # there was nothing to train
            trainer.save_checkpoint(checkpoint.last)
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            # Where no norm layer makes an epoch of it, nothing has measured the average yet.
            measured = measure(trainer, task, data, "val")
            if checkpoint.monitor in measured:
                checkpoint.compare(trainer, torch.tensor(measured[checkpoint.monitor]))
        if checkpoint.best.exists():
            task.load_state_dict(read_checkpoint(checkpoint.best)["state_dict"])
        elif trainer.global_step:
            print(f"no best checkpoint: {task.monitor} was never a finite number; the numbers are the last weights'")
        for stage in stages:
            metrics |= measure(trainer, task, data, stage)
        # metrics.csv is of epochs; metrics.json holds these.
        for logger in (one for one in loggers if not isinstance(one, MetricsFile)):
            logger.log_metrics({name: value for name, value in metrics.items() if name.startswith("test/")},
                               step=trainer.global_step)  # fmt: skip
        interrupts.watched = False  # nobody looks any more
        if interrupts.received is not None:
            interrupts.stop()
        ending = {"exit": "finished"}
        if plots and trainer.is_global_zero:
            plots.draw(task, data, "test" if "test" in stages else "val", loggers)
    except Interrupted as interrupted:
        ending = {"exit": "interrupted", "by": interrupted.name}
        raise
    except InputError as error:
        ending = {"exit": "failed", "error": "\n".join(error.lines)}
        raise
    except Exception as error:
        ending = {"exit": "failed", "error": f"{type(error).__name__}: {error}"}
        if isinstance(error, MisconfigurationException):
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        if lines := advise(error, config, run, checkpoint.failed_in):
            raise InputError(lines) from error
        raise
    finally:
        interrupts.watched = False
        for note in data.final_notes():
            print(note)
        for logger in loggers:
            if isinstance(logger, TensorBoard) and metrics:
                logger.log_result(config, metrics, trainer.global_step)
            logger.close() if isinstance(logger, TensorBoard) else logger.finalize("success")
        if not frozen:
            gc.unfreeze()
        seconds = round(time.perf_counter() - started, 3)
        if trainer.is_global_zero:
            try:
                run.finish(config, metrics, seconds, {"epochs": trainer.current_epoch, **ending})
            except OSError as error:
                if ending["exit"] == "finished":
                    raise
                print(f"{shown(run.path)}: how it ended could not be written: {error.strerror}")
            if plots and ending["exit"] != "interrupted":
                plots.write_report()
        finish_wandb(run.logger_id, exit_code=0 if ending["exit"] == "finished" else 1)
    score = checkpoint.best_score
    return Result(TrainedRun.of(run), metrics, None if score is None else float(score), seconds)


def _speed(config: Config, data: Any, trainer: Trainer, task: LightningModule) -> Iterator[str]:
    """What was chosen from the machine and the data, for the output's second line."""
    import torch

    yield counting(config.values["threads"], "thread")
    yield counting(data.num_workers, "worker")
    yield str(trainer.precision)
    if any(p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in task.parameters()):
        yield "channels_last"
    if config.values["compile"]:
        yield "compiled"


def table(metrics: dict[str, float]) -> None:
    """Print the metrics, a row each, a column for each stage."""
    from rich.console import Console
    from rich.table import Table

    stages = [stage for stage in ("train", "val", "test") if any(name.startswith(f"{stage}/") for name in metrics)]
    names = list(dict.fromkeys(name.partition("/")[2] for name in metrics))
    printed = Table("metric", *stages, box=None, pad_edge=False, header_style="bold")
    for column in printed.columns[1:]:
        column.justify = "right"
    for name in names:
        printed.add_row(
            name, *(f"{metrics[key]:.4f}" if (key := f"{stage}/{name}") in metrics else "" for stage in stages)
        )
    Console().print(printed)


def _follow() -> None:
    """End with the process that started this one: its end of standard input is closed then."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _go_on(run: Run, words: list[str], init: str | None, override: bool) -> Config:
    """The config that a run goes on with: its own, and what the words change."""
    from src.kindling.training.resume import go_on

    if init:
        raise InputError("--init: a resumed run has weights of its own; leave out --init or --resume")
    if words and "=" not in words[0]:
        name, words = words[0], words[1:]
        if name != run.config.name:
            raise InputError(f"{name}: {shown(run.path)} is a run of {run.config.name}; leave the config's name out")
    return go_on(run, words, override)
