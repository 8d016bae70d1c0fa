"""A study: many runs of one config, over hyper-parameters (src.tune), folds (src.crossval) or seeds (src.train --seeds).

Any number of processes, on any number of machines, work on one study. They share a storage of Optuna's and a lock
(src/storage.py): who holds it sees which members are left, and takes one (src/worker.py). A member whose worker was killed
is taken again, with the same parameters; in the same folder it goes on from its checkpoint. So the same command begins a
study, goes on with it, and joins it. Members are ordinary runs in `logs/<config>/<study>/<member>/`.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from src import run as run_module
from src.config import Config, compose, flatten, groups
from src.errors import InputError
from src.interrupts import Interrupted
from src.ranks import distributed
from src.redact import redact, redacted
from src.run import Run, build_data, build_task, shown, write, write_json
from src.slurm import requeue
from src.storage import connect, load_optuna, locked, patiently, reason

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from src.data.batch import Stage

FREE = ("name", "tags", "save_minutes", "data.num_workers")  # what may differ between two commands of one study
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
        from src.monitor import set_mode
        from src.parts import check_training
        from src.quiet import quiet

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


# ---------------------------------------------------------------------------------------------------------------
# What the commands share


def add_flags(parser: argparse.ArgumentParser, told: bool = True) -> None:
    """The flags of every command that runs a study; told in its help or not."""
    flags: dict[str, dict[str, Any]] = {
        "--workers": {"type": int, "default": 1, "metavar": "N", "help": "how many members are trained at a time (1)"},
        "--storage": {"metavar": "URL", "help": "postgresql://USER@HOST/DATABASE, for work on several machines"},
        "--name": {"help": "of the study; with another name another one is begun"},
        "--retry": {"action": "store_true", "help": "run failed members again"},
        "--pictures": {"action": "store_true", "help": "plots/ and a report.html for each member too"},
    }
    for flag, options in flags.items():
        parser.add_argument(flag, **{**options, **({} if told else {"help": argparse.SUPPRESS})})


def for_members(config: Config, words: Sequence[str], workers: int = 1) -> tuple[str, ...]:
    """The words of a study's members: one device for each, and threads that no number of workers changes.

    A member that is itself distributed is as its config says, in processes of its own.

    Raises:
        InputError: for so many workers for more cores than there are, or for several where each member is distributed.
    """
    from src.data.base import cores

    asked = distributed(config.values)
    if workers > 1 and asked:
        key, value = next(iter(asked.items()))
        raise InputError(f"--workers {workers}: expected 1, since each member takes several processes ({key}={value})")
    threads = config.values.get("threads") or 1
    if type(threads) is int and (workers < 1 or (workers > 1 and workers * threads > cores())):
        most, there = max(1, cores() // threads), "is 1 core" if cores() == 1 else f"are {cores()} cores"
        raise InputError(f"--workers {workers}: expected {'1' if most == 1 else f'1 to {most}'}: there {there}, and "
                         f"threads={threads} for each worker")  # fmt: skip
    words = (*words, *(() if config.values.get("threads") else ("threads=1",)))
    return words if asked else (*words, "trainer.devices=1")


def run_study(plan: Plan, study: optuna.Study, workers: int = 1, retry: bool = False) -> list[Outcome]:
    """Run the members that are left, in this process or in several, and say what became of each.

    Args:
        plan: the plan.
        study: from `begin`.
        workers: how many processes; one is this process.
        retry: whether to run again what failed.

    Raises:
        InputError: when every worker was killed.
        Interrupted: when a signal stopped it.
    """
    from src.worker import Worker, work_in_processes

    if retry:
        failed = [trial.number for trial in study.get_trials(deepcopy=False) if "error" in trial.user_attrs]
        plan = replace(plan, again=frozenset(failed))
    left = sum(one.state not in ENDED or (retry and one.state == "failed") for one in outcomes(plan, study))
    print(f"{plan.name}: {len(plan.members)} members, {left} to run, {workers} at a time", flush=True)
    try:
        if left:
            Worker(plan).work() if workers == 1 else work_in_processes(plan, workers)
    except Interrupted as interrupted:
        print(f"\n{interrupted.name}: stopped; the same command goes on with {plan.name}")
        if interrupted.name == "SIGUSR1":
            requeue()
        raise
    return patiently(lambda: outcomes(plan, study))


def end(plan: Plan, found: Sequence[Outcome], extra: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
    """Write study.json and report.html, and say where the study lies and what failed; then the command's status is 1.

    Args:
        plan, found: the study.
        extra: what else study.json holds.
        lines: the result in words, for the page.
    """
    from src.compare import as_page, rank, read

    told = {key: getattr(plan, key) for key in ("study", "config", "words", "monitor", "mode", "about")}
    write_json(
        plan.folder / "study.json", {**redacted(told), **extra, "members": [asdict(outcome) for outcome in found]}
    )
    here = [plan.folder / outcome.name for outcome in found if outcome.state == "finished"]
    runs = [read(path) for path in here if path.exists()]  # others lie on the machines that trained them
    counts = Counter(outcome.state for outcome in found)
    state = ", ".join(f"{number} {name}" for name, number in counts.items())
    pictures = sorted((plan.folder / "plots").glob("*.png"))
    page = as_page(
        rank(runs),
        [*lines, f"Members: {state}.", f"Again: {redact(shlex.join(['python', *plan.command[1:]]))}"],
        plan.name,
        pictures,
    )
    write(plan.folder / "report.html", page)
    print(f"report     {shown(plan.folder / 'report.html')}")
    print(f"study      {shown(plan.folder)}: study.json, and a run for each member")
    if failed := [outcome.name for outcome in found if outcome.state == "failed"]:
        some = ", ".join(failed[:5]) + " …" * (len(failed) > 5)
        print(f"failed     {len(failed)} of {len(found)}: {some}; the same command with --retry runs them again")
        raise SystemExit(1)


def show_metrics(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> None:
    """Print a table with a row for each metric."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns, box=None, pad_edge=False, header_style="bold")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    print()
    Console(highlight=False).print(table)
    print()


def defined_metrics(runs: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Each metric's values over the runs; one that is NaN (null in JSON) in a run is left out, and named."""
    columns: dict[str, list[float]] = {}
    for name in runs[0]:
        values = [value for metrics in runs if (value := metrics[name]) is not None and value == value]
        if len(values) == len(runs):
            columns[name] = values
        else:
            print(f"{name}: left out, undefined in {len(runs) - len(values)} of {len(runs)} runs")
    return columns


def seeds(given: str, name: str, words: Sequence[str], flags: argparse.Namespace) -> list[Outcome]:
    """Train and test a config once with each seed, and say how the results spread.

    Args:
        given: the seeds, `0,1,2`.
        name, words: the config.
        flags: those of `add_flags`.

    Raises:
        InputError: with a line for each mistake.
    """
    from src import parts

    numbers = given.split(",")
    if not all(number.strip().isdigit() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise InputError(f"--seeds {given}: expected different whole numbers, such as 0,1,2")
    config = compose(name, words)
    if "seed" in config.origins:
        raise InputError(f"seed={config.values['seed']}: --seeds sets it; leave it out ({config.origin('seed')})")
    parts.check(config)
    members = tuple(Member(f"seed{int(number)}", {"seed": int(number)}) for number in numbers)
    plan = Plan(config.name, for_members(config, words, flags.workers), flags.name or "seeds", members, stages=("val", "test"),
                storage=flags.storage, pictures=flags.pictures).monitored({})  # fmt: skip
    found = run_study(plan, begin(plan), flags.workers, flags.retry)
    finished = [outcome.metrics for outcome in found if outcome.state == "finished"]
    summary = {}
    if len(finished) > 1:
        columns = defined_metrics(finished)
        summary = {name: {"mean": fmean(values), "std": stdev(values)} for name, values in columns.items()}
        show_metrics({name: [f"{numbers['mean']:.4f} ± {numbers['std']:.4f}"] for name, numbers in summary.items()},
                     [f"mean ± std of {len(finished)} seeds"])  # fmt: skip
    end(plan, found, {"summary": summary}, [f"{name}: {numbers['mean']:.4f} ± {numbers['std']:.4f}"
                                            for name, numbers in summary.items()])  # fmt: skip
    return found


# ---------------------------------------------------------------------------------------------------------------
# The storage


def begin(plan: Plan) -> optuna.Study:
    """Make the study, or open it where there is one of its name.

    Raises:
        InputError: when that is another one, or the storage cannot be reached.
    """
    library = load_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    given = f"--storage {redact(plan.storage or plan.url)}"
    if not plan.url.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise InputError(f"{given}: expected postgresql://USER@HOST/DATABASE")
    if not re.fullmatch(r"\w[\w.-]*", plan.study):
        raise InputError(f"--name {plan.study}: expected letters, digits, '-', '_' and '.'")
    try:
        if not plan.storage:
            plan.folder.mkdir(parents=True, exist_ok=True)
        with locked(plan.url):
            study: optuna.Study = library.create_study(
                storage=connect(plan.url), study_name=plan.name, load_if_exists=True,
                direction="minimize" if plan.mode == "min" else "maximize",
            )  # fmt: skip
            _compare(plan, study)
    except ModuleNotFoundError as error:
        raise InputError(f"{given}: needs {error.name}; install it: pip install -e '.[tune]'") from None
    except (SQLAlchemyError, library.exceptions.StorageInternalError, OSError) as error:
        raise InputError(f"{given}: cannot be reached: {reason(error)}") from None
    plan.folder.mkdir(parents=True, exist_ok=True)
    return study


def _compare(plan: Plan, study: optuna.Study) -> None:
    config = flatten(redacted(plan.configure({}).values))
    asked = {**flatten(plan.about), "task.monitor": plan.monitor, "task.mode": plan.mode,
             **{key: value for key, value in config.items() if key not in FREE}}  # fmt: skip
    asked, known = json.loads(json.dumps(asked)), study.user_attrs.get("about")
    stem, _, number = plan.study.rpartition("_")
    other = f"--name {f'{stem}_{int(number) + 1}' if stem and number.isdigit() else f'{plan.study}_2'}"
    if known is None and any(plan.folder.glob("*/meta.json")):
        raise InputError(f"{shown(plan.folder)}: holds runs of a study that the storage does not know; remove them, or "
                         f"begin another study: {other}")  # fmt: skip
    if known is None:
        study.set_user_attr("about", asked)
    elif keys := [key for key in dict.fromkeys([*known, *asked]) if known.get(key) != asked.get(key)]:
        lines = [f"{key}: the study has {known.get(key)}, and {asked.get(key)} is asked for" for key in keys]
        raise InputError([*lines, f"{plan.name} goes on as it was begun; for another study: {other}"])


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
