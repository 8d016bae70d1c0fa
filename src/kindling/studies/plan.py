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
from src.kindling.config.compose import Config, compose, flatten, groups
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs import run as run_module
from src.kindling.runs.redact import redacted
from src.kindling.runs.run import Run
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
    """The state of one run, and its result.

    Attributes:
        name: the name of its directory.
        state: `waiting`, `running`, or one of ENDED.
        changes: its config keys and values.
        value: the monitored metric of its best checkpoint.
        metrics: the final metrics.
        seconds: duration of the last attempt.
        run: its directory.
        error: the reason of a failure.
        kills: how many of its workers were killed.
        worker: the machine and folder of its last worker.
        trial: the number of Optuna's trial in a search.
    """

    name: str
    state: str
    changes: dict[str, Any]
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    error: str = ""
    kills: int = 0
    worker: str = ""
    trial: int | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs; each worker process gets a copy.

    Attributes:
        config, overrides: the experiment's name, and the `key=value` overrides of all members.
        study: the study's name.
        members: name and config changes of each, in the order in which they start.
        about: settings beside the config that identify the study.
        monitor, mode: the metric by which members are compared.
        stages: what to measure at the end; without `test`, the test set stays unseen.
        storage: `postgresql://…`, for machines without a shared disk.
        suggest, sampler: in a search, draws config keys, and makes the sampler of a member.
        pruner: Optuna's pruner.
        after: called with the run of each member after its training.
        pictures: whether each member gets plots/ and report.html.
        logs, command: the folder of all runs, and the command for their meta.json.
    """

    config: str
    overrides: tuple[str, ...]
    study: str
    members: dict[str, dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)
    monitor: str = ""
    mode: str = ""
    stages: tuple[Stage, ...] = ("val",)
    storage: str | None = None
    suggest: Callable[[optuna.Trial], dict[str, Any]] | None = None
    sampler: Callable[[str], Any] | None = None
    pruner: Any = None
    after: Callable[[Run], None] | None = None
    pictures: bool = False
    logs: Path = field(default_factory=lambda: run_module.LOGS)
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.orig_argv))

    @property
    def name(self) -> str:
        return f"{self.config}/{self.study}"

    @property
    def folder(self) -> Path:
        return self.logs / self.config / self.study

    @property
    def settings(self) -> dict[str, Any]:
        """What every command of one study has in common, as JSON reads it."""
        config = flatten(redacted(self.configure({}).values))
        values = {key: value for key, value in config.items() if key not in FREE}
        monitor = {"monitor": self.monitor, "mode": self.mode}
        return dict(json.loads(json.dumps(flatten(self.about) | values | monitor)))

    def configure(self, changes: dict[str, Any]) -> Config:
        """Compose the config of a member."""
        swaps = {k: v for k, v in changes.items() if k in groups() and isinstance(v, str)}
        words = [f"{key}={option}" for key, option in swaps.items()]
        config = _compose(self.config, (*self.overrides, *words))
        rest = {key: value for key, value in changes.items() if key not in swaps}
        return config.replaced(rest, origin="study")

    def with_monitor(self, changes: dict[str, Any]) -> Plan:
        """Return this plan with the monitor and mode of a member's task, which is built for it.

        Raises:
            InputError: when data or task cannot be built.
        """
        from src.kindling.config import instantiate
        from src.kindling.training.build import build_data, build_task
        from src.kindling.training.monitor import choose_monitor
        from src.kindling.training.rehearsal import rehearse
        from src.kindling.training.warning_filters import quiet

        quiet()
        config = self.configure(changes)
        instantiate.check_training(config)
        data = build_data(config)
        task = build_task(config, data, load_weights=False)
        logged = rehearse(config, data, task).logged
        monitor = choose_monitor(instantiate.values(config), task, logged)
        if monitor.name is None:
            names = ", ".join(sorted(logged or ())) or "none"
            raise InputError(
                f"monitor: a study compares trials by one; set monitor=… (logged: {names})"
            )
        return replace(self, monitor=monitor.name, mode=monitor.mode)


def member_overrides(config: Config, overrides: Sequence[str], workers: int) -> tuple[str, ...]:
    """Complete the overrides of a study: one device and one thread for each member.

    Results then do not depend on the number of workers. The devices of a distributed member stay
    as its config sets them.

    Raises:
        InputError: when there are too few cores, or each member is distributed.
    """
    processes, threads = distributed(config.values), config.values.get("num_threads") or 1
    problem = "expected at least 1" if workers < 1 else ""
    if workers > 1 and processes:
        key, value = next(iter(processes.items()))
        problem = f"expected 1, since each member takes several processes ({key}={value})"
    elif workers > 1 and isinstance(threads, int) and workers * threads > cores.usable_cores():
        usable = cores.usable_cores()
        problem = (
            f"expected at most {max(1, usable // threads)}; this machine has "
            f"{format_count(usable, 'usable core')}, and each worker takes num_threads={threads}"
        )
    if problem:
        raise InputError(f"--workers {workers}: {problem}")
    added = [] if config.values.get("num_threads") else ["num_threads=1"]
    added += [] if processes else ["trainer.devices=1"]
    return (*overrides, *added)
