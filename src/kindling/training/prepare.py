"""Prepare a training: data, task, Trainer, and the state of a resumed run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)

from src.kindling.config import instantiate
from src.kindling.config.compose import VALUES, Config
from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import STAGES, Stage
from src.kindling.runs.files import write
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupts
from src.kindling.training.build import build_data, build_task
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.monitor import Monitor, choose_monitor
from src.kindling.training.rehearsal import check_disk, rehearse
from src.kindling.training.repeatable import make_repeatable, seed_hooks
from src.kindling.training.resume import ResumeState
from src.kindling.training.speed import choose
from src.kindling.training.trainer import build_trainer
from src.kindling.training.transfer import take_weights

if TYPE_CHECKING:
    from src.kindling.training.trained_run import TrainedRun


class Drawer(Protocol):
    """Draws the plots and the report of a run: `src.kindling.analysis.plots.Plots`."""

    @property
    def callbacks(self) -> Sequence[Callback]: ...

    def draw_before(self, task: Any, data: Any) -> object: ...

    def draw(
        self, task: Any, data: Any, stage: Stage, monitor: Monitor, loggers: Any
    ) -> object: ...

    def write_report(self) -> object: ...


@dataclass
class Training:
    """One training, from its preparation to its record.

    Attributes:
        metrics: the final numbers, by name.
        ending: how it ended: `exit`, and `by` or `error`.
    """

    config: Config
    run: Run
    data: LightningDataModule | None
    task: LightningModule
    monitor: Monitor
    trainer: Trainer
    interrupts: Interrupts
    resume_state: ResumeState | None
    plots: Drawer | None
    taken: dict[str, Any] | None
    started: float
    metrics: dict[str, float] = field(default_factory=dict)
    ending: dict[str, str] = field(default_factory=lambda: {"exit": "failed"})

    @property
    def checkpoint(self) -> Checkpoint:
        """The callback that saves."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, Checkpoint))


def prepare(
    config: Config,
    run: Run,
    interrupts: Interrupts,
    init: TrainedRun | None,
    resume: bool,
    override: bool,
    plots: Drawer | None,
    callbacks: Sequence[Callback],
) -> Training:
    """Build everything, and rehearse it; the arguments are those of `fit`."""
    started = time.perf_counter()
    if not resume:
        instantiate.check_training(config)
    config = _fill_defaults(config)
    state = ResumeState.load(run, config, override) if resume else None
    values = instantiate.values(config)
    torch.set_num_threads(values.num_threads or 1)
    data = build_data(config)
    config = config.replaced(choose(config, data), origin="a default")
    if state:
        state.check_data(data)
        if isinstance(data, DataModule):
            data.position = state.position
    seed_everything(values.seed, verbose=False)
    task = build_task(config, data, load_weights=state is None)
    if state:
        state.check_weights(task, run, config)
    taken = take_weights(task, init) if init else None
    check_disk(run, data, task)
    monitor = choose_monitor(values, task, rehearse(config, data, task).logged)
    if data is None:
        seed_hooks(task, values.seed)
    trainer = build_trainer(config, run, task, data, monitor, interrupts, state)
    make_repeatable(trainer, values.seed, state.position if state else (0, 0))
    trainer.callbacks += callbacks  # type: ignore[attr-defined]
    if plots:
        trainer.callbacks[:0] = plots.callbacks  # type: ignore[attr-defined]
    return Training(
        config, run, data, task, monitor, trainer, interrupts, state, plots, taken, started
    )


def _fill_defaults(config: Config) -> Config:
    """Return the config with defaults filled in, so that another machine repeats the run.

    References stay references.
    """
    values = dataclasses.asdict(instantiate.values(config))
    own = ("monitor", "mode")
    filled = {
        key: value
        for key, value in values.items()
        if config.values.get(key) is None and key not in own
    }
    return config.replaced(filled, origin="a default")


def record_start(training: Training, resume: bool) -> None:
    """Write config.yaml, meta.json and split.csv, and print what is trained."""
    config, run, data, task = training.config, training.run, training.data, training.task
    parameters = sum(parameter.numel() for parameter in task.parameters())
    own = data if isinstance(data, DataModule) else None
    if training.trainer.is_global_zero:
        if own:
            write(run.path / "split.csv", own.split_csv())
        facts: dict[str, Any] = {key: config.values.get(key) for key in VALUES}
        facts |= {"split_hash": own and own.split_hash(), "data_hash": own and own.content_hash()}
        facts |= {"parameters": parameters, "init": training.taken}
        facts |= {"monitor": training.monitor.name, "mode": training.monitor.mode}
        facts["override"] = training.resume_state is not None and training.resume_state.changed
        run.begin(config, facts, again=resume)
    net: Any = getattr(task, "net", task)
    device = training.trainer.strategy.root_device
    print(
        f"{config.name}: {type(net).__name__} with {parameters:,} parameters on {device}; "
        f"{describe_data(data)}"
    )
    print("speed: " + ", ".join(_speed(training)))
    state = training.resume_state
    notes = [getattr(part, "notes", []) for part in (data, net, task if net is not task else None)]
    for note in [
        *(line for lines in notes for line in lines),
        *training.monitor.notes,
        *(state.notes if state else []),
    ]:
        print(note)


def describe_data(data: LightningDataModule | None) -> str:
    """The sizes of the splits, or the class of data from elsewhere."""
    if data is None:
        return "data of the task"
    if not isinstance(data, DataModule):
        return f"data: {type(data).__name__}"
    return ", ".join(f"{len(data.indices[stage]):,} {stage}" for stage in STAGES)


def _speed(training: Training) -> Iterator[str]:
    """What was chosen from the machine and the data."""
    yield format_count(training.config.values["num_threads"], "thread")
    if isinstance(training.data, DataModule):
        yield format_count(training.data.num_workers, "worker")
    yield str(training.trainer.precision)
    parameters = training.task.parameters()
    if any(p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in parameters):
        yield "channels_last"
    if training.config.values["compile"]:
        yield "compiled"
