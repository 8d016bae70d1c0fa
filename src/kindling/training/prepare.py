"""Prepare a training: data, task, Trainer, and the state of a resumed run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)

from src.kindling.config import instantiate
from src.kindling.config.compose import VALUES, Config, get
from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import STAGES
from src.kindling.runs.files import write
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupts
from src.kindling.training.build import build_data, build_task
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.monitor import Monitor, choose_monitor
from src.kindling.training.rehearsal import check_disk, rehearse
from src.kindling.training.repeatable import make_repeatable
from src.kindling.training.resume_state import ResumeState
from src.kindling.training.seeded import seed_hooks
from src.kindling.training.trainer import build_trainer
from src.kindling.training.transfer import take_weights

if TYPE_CHECKING:
    from src.kindling.training.trained_run import TrainedRun

# Compiling takes about a minute, and a step of a small net 10 ms: it pays off above these steps.
WORTH_COMPILING = 20_000


@dataclass
class Training:
    """One training, from its preparation to its record.

    Attributes:
        plots: draws plots/ and report.html (`src.kindling.analysis.Plots`), or None.
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
    plots: Any
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
    plots: Any,
    callbacks: Sequence[Callback],
) -> Training:
    """Build everything, rehearse it, and record the start; the arguments are those of `fit`."""
    started = time.perf_counter()
    if not resume:
        instantiate.check_training(config)
    config = _fill_defaults(config)
    state = ResumeState.load(run, config, override) if resume else None
    values = instantiate.values(config)
    torch.set_num_threads(values.num_threads or 1)
    data = build_data(config)
    config = _choose_speed(config, data)
    if state:
        state.check_data(data)
        if isinstance(data, DataModule):
            data.position = state.position
    seed_everything(values.seed, verbose=False)
    task = build_task(config, data, load_weights=state is None)
    if state:
        state.check_weights(task, run, config)
    taken = take_weights(task, init) if init else None
    check_disk(run, task)
    monitor = choose_monitor(values, task, rehearse(config, data, task))
    if data is None:
        seed_hooks(task, values.seed)
    trainer = build_trainer(config, run, task, data, monitor, interrupts, state)
    make_repeatable(trainer, values.seed, state.position if state else (0, 0))
    trainer.callbacks += callbacks  # type: ignore[attr-defined]
    if plots:
        trainer.callbacks[:0] = plots.callbacks  # type: ignore[attr-defined]
    training = Training(
        config, run, data, task, monitor, trainer, interrupts, state, plots, started
    )
    if trainer.is_global_zero:
        _record_start(training, taken, resume)
    _print_start(training)
    return training


def _fill_defaults(config: Config) -> Config:
    """Fill in the defaults of plain values, so that another machine repeats the run."""
    values = dataclasses.asdict(instantiate.values(config))
    for key in ("monitor", "mode"):  # they follow from the task
        del values[key]
    missing = {key: value for key, value in values.items() if config.values.get(key) is None}
    return config.replaced(missing, origin="a default")


def _choose_speed(config: Config, data: LightningDataModule | None) -> Config:
    """On a GPU, use bf16-mixed, and compile for long trainings, if the config leaves it open."""
    gpu = get(config.values, "trainer.accelerator") in (None, "auto", "gpu", "cuda")
    gpu = gpu and torch.cuda.is_available()
    chosen: dict[str, Any] = {}
    if gpu and get(config.values, "trainer.precision") is None and torch.cuda.is_bf16_supported():
        chosen["trainer.precision"] = "bf16-mixed"
    if config.values["compile"] is None:
        epochs = get(config.values, "trainer.max_epochs") or 1
        limit = get(config.values, "trainer.max_steps") or -1
        steps = epochs * len(data.loader("train")) if isinstance(data, DataModule) else 0
        chosen["compile"] = gpu and (steps if limit < 0 else min(steps, limit)) > WORTH_COMPILING
    return config.replaced(chosen, origin="a default")


def _count_parameters(task: LightningModule) -> int:
    return sum(parameter.numel() for parameter in task.parameters())


def _record_start(training: Training, taken: dict[str, Any] | None, resume: bool) -> None:
    """Write config.yaml, meta.json and split.csv."""
    config, run, state = training.config, training.run, training.resume_state
    facts: dict[str, Any] = {key: config.values.get(key) for key in VALUES}
    facts |= {"split_hash": None, "data_hash": None}
    if isinstance(data := training.data, DataModule):
        write(run.path / "split.csv", data.split_csv())
        facts |= {"split_hash": data.split_hash(), "data_hash": data.content_hash()}
    facts |= {"parameters": _count_parameters(training.task), "init": taken}
    facts |= {"monitor": training.monitor.name, "mode": training.monitor.mode}
    facts["override"] = state is not None and state.changed
    run.begin(config, facts, again=resume)


def _print_start(training: Training) -> None:
    """Print what is trained, what was chosen from machine and data, and the notes of the parts."""
    config, data, task = training.config, training.data, training.task
    speed = [format_count(config.values["num_threads"], "thread")]
    described = f"data: {type(data).__name__}" if data else "data of the task"
    if isinstance(data, DataModule):
        described = ", ".join(f"{len(data.indices[stage]):,} {stage}" for stage in STAGES)
        speed.append(format_count(data.num_workers, "worker"))
    speed.append(str(training.trainer.precision))
    convolutions = [parameter for parameter in task.parameters() if parameter.ndim == 4]
    if any(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions):
        speed.append("channels_last")
    if config.values["compile"]:
        speed.append("compiled")
    net: Any = getattr(task, "net", task)
    counted = f"{type(net).__name__} with {_count_parameters(task):,} parameters"
    print(f"{config.name}: {counted} on {training.trainer.strategy.root_device}; {described}")
    print("speed: " + ", ".join(speed))
    parts = [data, net, task if net is not task else None, training.monitor, training.resume_state]
    for part in parts:
        for note in getattr(part, "notes", ()):
            print(note)
