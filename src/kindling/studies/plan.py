"""The plan of a study: its members, their configs, and their results."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config import cores
from src.kindling.config.compose import Config, change, compose, flatten, groups
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs import run as run_module
from src.kindling.runs.redact import redacted
from src.kindling.training.distributed import distributed

if TYPE_CHECKING:
    import optuna

    from src.kindling.data.samples import Stage

ENDED = ("finished", "pruned", "failed")
# Keys that may differ between two commands of one study.
FREE = ("name", "tags", "checkpoint_minutes", "data.num_workers")
# Cached, so that an edited file does not change the members that are left.
_compose = functools.cache(compose)


@dataclass(frozen=True)
class TrialResult:
    """The state of one run, and its result."""

    name: str  # of its directory
    state: str  # `waiting`, `running`, or one of ENDED
    changes: dict[str, Any]  # its config keys and values
    value: float | None = None  # the monitored metric of its best checkpoint
    metrics: dict[str, float] = field(default_factory=dict)  # the final ones
    seconds: float = 0.0  # of the last attempt
    run: str = ""  # its directory
    error: str = ""
    kills: int = 0  # how many of its workers were killed
    worker: str = ""  # the machine and folder of the last one
    trial: int | None = None  # the number of Optuna's trial in a search


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs; each worker process gets a copy."""

    config: str  # the experiment's name
    overrides: tuple[str, ...]  # the `key=value` overrides of all members
    study: str
    members: dict[str, dict[str, Any]]  # name and config changes, in the order of their start
    about: dict[str, Any] = field(default_factory=dict)  # settings beside the config
    monitor: str = ""  # the metric by which members are compared
    mode: str = ""
    stages: tuple[Stage, ...] = ("val",)  # what to measure at the end
    storage: str | None = None  # `postgresql://…`, for machines without a shared disk
    suggest: Callable[[optuna.Trial], dict[str, Any]] | None = None  # draws config keys
    sampler: Callable[[str], Any] | None = None  # makes Optuna's sampler for a member
    pruner: Any = None  # Optuna's
    part: str = ""  # of the study, a folder in its own: a retest of the best member
    plots: bool = False  # whether each member gets plots/ and report.html
    logs: Path = field(default_factory=lambda: run_module.LOGS)
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.orig_argv))  # of meta.json

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.config, self.study, self.part)))

    @property
    def folder(self) -> Path:
        return self.logs / self.name

    @property
    def settings(self) -> dict[str, Any]:
        """The values that all commands of one study have in common, as JSON reads them."""
        config = flatten(redacted(self.configure({}).values))
        values = {key: value for key, value in config.items() if key not in FREE}
        monitor = {"monitor": self.monitor, "mode": self.mode}
        return dict(json.loads(json.dumps(flatten(self.about) | values | monitor)))

    def best(self, results: Sequence[TrialResult]) -> TrialResult:
        """The one with the best value of the monitored metric."""
        choose = min if self.mode == "min" else max
        return choose(results, key=lambda result: result.value or 0.0)

    def configure(self, changes: dict[str, Any]) -> Config:
        """Compose the config of a member."""
        swaps = {k: v for k, v in changes.items() if k in groups() and isinstance(v, str)}
        config = _compose(self.config, (*self.overrides, *to_words(swaps)))
        return change(config, to_words({k: v for k, v in changes.items() if k not in swaps}))

    def with_monitor(self, changes: dict[str, Any]) -> Plan:
        """Build a member's data and task, and return this plan with the task's monitor and mode."""
        from src.kindling.config import instantiate
        from src.kindling.training.build import build_data, build_task
        from src.kindling.training.monitor import choose_monitor
        from src.kindling.training.rehearsal import rehearse
        from src.kindling.training.stages import has_stage
        from src.kindling.training.warning_filters import quiet

        quiet()
        config = self.configure(changes)
        data = build_data(config)
        task = build_task(config, data, load_weights=False)
        if "data.fold" in changes and not has_stage("test", data, task):
            problem = f"{type(task).__name__} has no test_step, which measures the held-out fold"
            raise InputError(f"task: {problem}; add one")
        logged = rehearse(config, data, task)
        monitor = choose_monitor(instantiate.values(config), task, logged)
        if monitor.name is None:
            if not logged:
                raise InputError("task: a study compares trials by a metric of validation; log one")
            problem = "a study compares trials by one; set monitor=…"
            raise InputError(f"monitor: {problem} (logged: {', '.join(sorted(logged))})")
        return replace(self, monitor=monitor.name, mode=monitor.mode)


def to_words(changes: dict[str, Any]) -> list[str]:
    """A member's changes as `key=value` words, as on a command line."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def make_plan(
    config: Config, overrides: Sequence[str], flags: Any, study: str, members: dict[str, Any]
) -> Plan:
    """Make a study's plan from its command's flags; raise InputError for too many workers.

    Results do not depend on their number: by default, a member has one device and one thread.
    """
    processes, threads = distributed(config.values), config.values.get("num_threads")
    workers, usable = flags.workers, cores.usable_cores()
    problem = "" if workers > 0 else "expected at least 1"
    if workers > 1 and processes:
        key, value = next(iter(processes.items()))
        problem = f"expected 1, since each member takes several processes ({key}={value})"
    elif workers > 1 and isinstance(threads, int | None) and workers * (threads or 1) > usable:
        most, taken = max(1, usable // (threads or 1)), f"num_threads={threads or 1}"
        machine = f"this machine has {format_count(usable, 'usable core')}"
        problem = f"expected at most {most}; {machine}, and each worker takes {taken}"
    if problem:
        raise InputError(f"--workers {workers}: {problem}")
    if not threads:
        overrides = [*overrides, "num_threads=1"]
    if not processes:
        overrides = [*overrides, "trainer.devices=1"]
    plan = Plan(config.name, tuple(overrides), flags.name or study, members)
    return replace(plan, storage=flags.storage, plots=flags.plots)
