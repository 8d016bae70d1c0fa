"""What a study is to do: its members, their configs, and what became of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config, compose, groups
from src.kindling.config.errors import InputError
from src.kindling.runs import run as run_module
from src.kindling.runs.run import Run
from src.kindling.training.distributed import distributed

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from src.kindling.data.batch import Stage

ENDED = ("finished", "pruned", "failed")


@dataclass(frozen=True)
class Member:
    """One run of a study: its directory's name, its config keys, and values of the space that are not to be drawn."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a study is to do; every worker process gets a copy.

    Attributes:
        config, words: the experiment's name, and the `key=value` words that hold for all members.
        study: the study's name.
        members: in the order in which they are begun.
        about: plain values that make it this study and no other, beside the config.
        monitor, mode: what the members are measured by.
        stages: what is measured of each; without `test`, the test set stays unseen.
        storage: `postgresql://…`, or None for a file in the study's folder.
        suggest: draws a member's config keys.
        sampler: makes Optuna's sampler from a seed.
        pruner: Optuna's pruner.
        after: called with the run of each member that was trained.
        pictures: whether each member gets plots/ and a report.html of its own.
        again: failed trials, by number, whose members are run again.
        logs, command: the folder of all runs, and the command for their meta.json.
    """

    config: str
    words: tuple[str, ...]
    study: str
    members: tuple[Member, ...]
    about: dict[str, Any] = field(default_factory=dict)
    monitor: str = ""
    mode: str = ""
    stages: tuple[Stage, ...] = ("val",)
    storage: str | None = None
    suggest: Callable[[optuna.Trial], dict[str, Any]] | None = None
    sampler: Callable[[int], Any] | None = None
    pruner: Any = None
    after: Callable[[Run], None] | None = None
    pictures: bool = False
    again: frozenset[int] = frozenset()
    logs: Path = field(default_factory=lambda: run_module.LOGS)
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.orig_argv))

    @property
    def name(self) -> str:
        return f"{self.config}/{self.study}"

    @property
    def folder(self) -> Path:
        return self.logs / self.config / self.study

    @property
    def url(self) -> str:
        """The storage's address, with the driver that is used."""
        file = f"sqlite:///{self.folder / 'study.db'}"
        return self.storage.replace("postgresql://", "postgresql+psycopg://", 1) if self.storage else file

    def configure(self, changes: dict[str, Any]) -> Config:
        """The config of a member."""
        swaps = {key: value for key, value in changes.items() if key in groups() and isinstance(value, str)}
        config = _composed(self.config, (*self.words, *(f"{key}={value}" for key, value in swaps.items())))
        return config.replaced({key: value for key, value in changes.items() if key not in swaps}, origin="study")

    def monitored(self, changes: dict[str, Any]) -> Plan:
        """This plan with what the task of such a member monitors. Builds its data, which may refuse."""
        from src.kindling.config.instantiate import check_training
        from src.kindling.training.build import build_data, build_task
        from src.kindling.training.monitor import set_mode
        from src.kindling.training.warning_filters import quiet

        quiet()
        config = self.configure(changes)
        check_training(config)
        task: Any = build_task(config, build_data(config).spec, begin=False)
        set_mode(task, config.values["task"])
        return replace(self, monitor=task.monitor, mode=task.mode)


_composed = functools.cache(compose)


@dataclass(frozen=True)
class Outcome:
    """What became of a member: `finished`, `pruned`, `failed`, `running` or `waiting`.

    With its config keys, what is monitored at its best checkpoint, its final numbers, the seconds that all of it took,
    its directory, and why it failed.
    """

    name: str
    state: str
    changes: dict[str, Any]
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    error: str = ""


def for_members(config: Config, words: Sequence[str], workers: int = 1) -> tuple[str, ...]:
    """The words of a study's members: one device for each, and threads that no number of workers changes.

    A member that is itself distributed is as its config says, in processes of its own.

    Raises:
        InputError: for so many workers for more cores than there are, or for several where each member is distributed.
    """
    from src.kindling.config.cores import usable_cores

    asked = distributed(config.values)
    if workers > 1 and asked:
        key, value = next(iter(asked.items()))
        raise InputError(f"--workers {workers}: expected 1, since each member takes several processes ({key}={value})")
    threads = config.values.get("threads") or 1
    if type(threads) is int and (workers < 1 or (workers > 1 and workers * threads > usable_cores())):
        most, there = (
            max(1, usable_cores() // threads),
            "is 1 core" if usable_cores() == 1 else f"are {usable_cores()} cores",
        )
        raise InputError(f"--workers {workers}: expected {'1' if most == 1 else f'1 to {most}'}: there {there}, and "
                         f"threads={threads} for each worker")  # fmt: skip
    words = (*words, *(() if config.values.get("threads") else ("threads=1",)))
    return words if asked else (*words, "trainer.devices=1")


def outcomes(plan: Plan, study: optuna.Study) -> list[Outcome]:
    """What became of each member so far."""
    trials_of, found = histories(study), []
    for member in plan.members:
        told, state, value, changes = {}, "waiting", None, member.changes
        if trials := trials_of.get(member.name):
            facts, value = trials[-1].user_attrs, trials[-1].value
            states = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "running"}
            state = "failed" if "error" in facts else states.get(trials[-1].state.name, "waiting")
            told = {key: facts[key] for key in ("metrics", "seconds", "run", "error") if key in facts}
            changes = facts.get("drawn", changes)
        found.append(Outcome(member.name, state, changes, value, **told))
    return found


def histories(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    """The trials of each member, the telling one last: the one that has ended, else one under way, else the newest."""
    order = ("FAIL", "WAITING", "RUNNING", "PRUNED", "COMPLETE")
    trials: dict[str, list[FrozenTrial]] = {}
    for trial in sorted(
        study.get_trials(deepcopy=False), key=lambda trial: (order.index(trial.state.name), trial.number)
    ):
        trials.setdefault(trial.user_attrs["member"], []).append(trial)
    return trials
