"""Train a config and measure its best checkpoint, leaving a run in logs/."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.kindling.config import instantiate
from src.kindling.config.compose import VALUES, Config
from src.kindling.config.errors import InputError, TrainingError, escape_control
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.nn.additions import net_of
from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.runs.files import display_path, require_folder, write
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.training.build import build_data, build_task, choose_speed, fill_defaults
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.outcomes import stop_reason
from src.kindling.training.error_hints import advise
from src.kindling.training.layer_trace import LayerTrace
from src.kindling.training.monitor import choose_monitor
from src.kindling.training.rehearsal import check_disk, rehearse
from src.kindling.training.resume import ResumeState
from src.kindling.training.run_lock import lock_run
from src.kindling.training.run_loggers import MetricsFiles, TensorBoard
from src.kindling.training.seeding import seed_hooks
from src.kindling.training.start_lines import describe_start
from src.kindling.training.trained_run import TrainedRun, restore_buffers
from src.kindling.training.trainer import build_trainer, finish_wandb, measure
from src.kindling.training.transfer import Match, take_weights
from src.kindling.training.warning_filters import quiet


@dataclass(frozen=True)
class Result:
    """The result of a training.

    Attributes:
        run: its directory.
        metrics: the final numbers of the best checkpoint, by name: `test/accuracy`.
        score: the best value of the monitored metric; None where nothing is monitored.
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
    plots: Any = None,
    callbacks: Sequence[Callback] = (),
    match: Match = "name",
) -> Result:
    """Train a config and measure its best checkpoint; may be called many times in one process.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        run: a new directory, from `Run.claim`; or, to resume, one that was trained before.
        stages: what to measure at the end; search trials leave out `test`.
        init: a run whose weights to begin with, where names and shapes agree.
        resume: continue from the run's newest whole checkpoint, exactly as if it had never stopped.
        override: accept config and data changes of a resumed run.
        plots: `src.kindling.analysis.Plots(run)` draws plots/ and report.html; None draws nothing.
        callbacks: further ones, which are not recorded.
        match: how the weights of `init` are found: see `take_weights`.

    Raises:
        InputError: when the data or a constructor refuses a value; nothing was trained.
        TrainingError: when the training fails in a way that has a remedy.
        Interrupted: when a signal ended the training, which was saved.
    """
    quiet()
    try:
        with lock_run(run, config.values), Interrupts() as interrupts:
            training = Training(
                config, run, interrupts, init, resume, override, plots, callbacks, match
            )
            with training.recorded():
                training.print_start()
                training.train()
                training.measure_best(stages)
                training.draw("test" if "test" in stages else "val")
    except OSError as error:  # before the first step, or after the last
        if line := advise(error, config, run):
            raise InputError(line) from error
        raise
    score = training.checkpoint.best_score
    best = None if score is None else float(score)
    return Result(TrainedRun.of(run), training.metrics, best, training.seconds())


class Training:
    """One training; when it is made, everything is built, rehearsed and recorded.

    The arguments are those of `fit`.

    Attributes:
        metrics: the final numbers, by name.
        ending: how it ended: `exit`, and `by` or `error`.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        interrupts: Interrupts,
        init: TrainedRun | None,
        resume: bool,
        override: bool,
        plots: Any,
        callbacks: Sequence[Callback],
        match: Match,
    ) -> None:
        self.run, self.interrupts, self.plots = run, interrupts, plots
        self.started = time.perf_counter()
        self.metrics: dict[str, float] = {}
        self.ending = {"exit": "failed"}
        config = fill_defaults(config)
        self.state = state = ResumeState.load(run, config, override) if resume else None
        values = instantiate.values(config)
        torch.set_num_threads(values.num_threads or 1)
        self.data = build_data(config)
        self.config = config = choose_speed(config, self.data)
        if state:
            state.check_data(self.data)
        seed_everything(values.seed, verbose=False)
        self.task = build_task(config, self.data, load_weights=state is None)
        if state:
            state.check_weights(self.task, run, config)
        taken = take_weights(self.task, init, match) if init else None
        check_disk(run, self.task)
        trace = LayerTrace()
        logged = rehearse(config, self.data, self.task, trace)
        self.monitor = choose_monitor(values, self.task, logged)
        if self.data is None:
            seed_hooks(self.task, values.seed)
        self.trainer = trainer = build_trainer(
            config, run, self.task, self.data, self.monitor, interrupts, state, trace.layers
        )
        self.callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.callbacks += callbacks
        if plots:
            self.callbacks[:0] = plots.callbacks
            plots.layers = trace.layers
        self.checkpoint = next(part for part in self.callbacks if isinstance(part, Checkpoint))
        self._record_start({"init": taken}, resume)

    def seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)

    def _record_start(self, facts: dict[str, Any], resume: bool) -> None:
        """Write config.yaml, meta.json and split.csv."""
        config, data, state = self.config, self.data, self.state
        if self.trainer.is_global_zero:
            facts |= {key: config.values.get(key) for key in VALUES} | self._monitored()
            parameters = sum(parameter.numel() for parameter in self.task.parameters())
            facts |= {"parameters": parameters, "split_hash": None, "data_hash": None}
            facts["override"] = state is not None and state.changed
            if isinstance(data, DataModule):
                write(self.run.path / "split.csv", data.split_csv())
                facts |= {"split_hash": data.split_hash(), "data_hash": data.content_hash()}
            self.run.begin(config, facts, again=resume)

    def print_start(self) -> None:
        """Print the net, the data and the settings that matter for speed."""
        parts = self.config, self.data, self.task, self.trainer
        for line in [*describe_start(*parts), *(self.state.notes if self.state else ())]:
            print(escape_control(line))

    def _monitored(self) -> dict[str, str | None]:
        return {"monitor": self.monitor.name, "mode": self.monitor.mode}

    def train(self) -> None:
        """Fit the task; best.ckpt and last.ckpt are saved on the way."""
        if self.config.values["compile"]:
            net_of(self.task).compile()  # in place: the names in its state dict stay
        if self.plots and self.trainer.is_global_zero:
            self.plots.draw_before(self.task, self.data)
        path = self.state.path if self.state else None
        self.trainer.fit(self.task, datamodule=self.data, ckpt_path=path, weights_only=True)
        if reason := stop_reason(self.trainer):
            print(reason)
        # Not by the file's existence: another rank may be writing it, and all save together.
        if self.state is None and not self.checkpoint.saved_last:
            print("no step was trained; the metrics are those of the initial weights")
            self.trainer.save_checkpoint(self.checkpoint.last)

    def measure_best(self, stages: Sequence[Stage]) -> None:
        """Measure the best checkpoint, or the last weights where nothing is monitored."""
        task, trainer, checkpoint = self.task, self.trainer, self.checkpoint
        epoch = trainer.current_epoch
        if any(isinstance(callback, StochasticWeightAveraging) for callback in self.callbacks):
            # Without norm layers, Lightning does not validate the average.
            measured = measure(trainer, task, self.data, "val")
            if checkpoint.monitor in measured:
                checkpoint.compare(trainer, torch.tensor(measured[checkpoint.monitor]))
        if checkpoint.best.exists():
            content = read_checkpoint(checkpoint.best)
            task.on_load_checkpoint(content)
            task.load_state_dict(content["state_dict"], strict=task.strict_loading)
            restore_buffers(task, checkpoint.buffers | content["kindling"].get("buffers", {}))
            epoch = content["epoch"]
        elif trainer.global_step and checkpoint.monitor:
            reason = checkpoint.explain_missing_best(trainer)
            print(f"no best checkpoint: {reason}; the metrics are of the last weights")
        by_stage = {
            stage: measure(trainer, task, self.data, stage, epoch=epoch) for stage in stages
        }
        for metrics in by_stage.values():
            self.metrics |= metrics
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsFiles):  # it holds epochs; metrics.json holds these
                logger.log_metrics(by_stage.get("test", {}), step=trainer.global_step)
        self.interrupts.watched = False  # from here on a signal ends the process at once
        if self.interrupts.received is not None:
            self.interrupts.stop()
        self.ending = {"exit": "finished"}

    def draw(self, stage: Stage) -> None:
        """Draw the plots of the best checkpoint."""
        require_folder(self.run.path)
        if self.plots and self.trainer.is_global_zero:
            self.plots.draw(self.task, self.data, stage, self.monitor, self.trainer.loggers)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record how the training within ends, and turn known errors into a line of advice."""
        try:
            yield
        except (Interrupted, BrokenPipeError) as end:  # of `| head`, say
            self.ending = {"exit": "interrupted", "by": getattr(end, "name", "SIGPIPE")}
            raise
        except InputError as error:
            self.ending = {"exit": "failed", "error": "\n".join(error.lines)}
            raise
        except Exception as error:
            self.ending = {"exit": "failed", "error": f"{type(error).__name__}: {error}"}
            if line := advise(error, self.config, self.run, self.checkpoint.failed_in):
                kind = InputError if line.startswith("trainer: ") else TrainingError
                raise kind(line) from error
            raise
        finally:
            if (self.run.path / "meta.json").exists():  # its directory may be deleted in part
                self._record_end()
            finish_wandb(self.run.logger_id, exit_code=int(self.ending["exit"] != "finished"))
            require_folder(self.run.path)

    def _record_end(self) -> None:
        """Close the loggers; write meta.json, metrics.json and the report."""
        run, trainer, finished = self.run, self.trainer, self.ending["exit"] == "finished"
        self.interrupts.watched = False
        for logger in trainer.loggers:
            logger.finalize("success" if finished else "failed")
            if isinstance(logger, TensorBoard):
                if self.metrics:
                    logger.log_result(self.config, self.metrics, trainer.global_step)
                logger.close()
        if trainer.is_global_zero:
            facts = {"epochs": trainer.current_epoch, **self.ending, **self._monitored()}
            if is_overridden("configure_model", self.task):
                facts["parameters"] = sum(one.numel() for one in self.task.parameters())
            try:
                run.finish(self.config, self.metrics, self.seconds(), facts)
            except OSError as error:
                if finished:
                    raise
                print(f"{display_path(run.path)}: its end could not be recorded: {error.strerror}")
            if self.plots and self.ending["exit"] != "interrupted":
                self.plots.write_report()
