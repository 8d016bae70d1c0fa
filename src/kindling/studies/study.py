"""A study: many runs of one config, over hyper-parameters (src.tune), folds (src.crossval) or seeds (src.train --seeds).

Any number of processes, on any number of machines, work on one study. They share a storage of Optuna's and a lock
(storage.py): who holds it sees which members are left, and takes one (worker.py). A member whose worker was killed
is taken again, with the same parameters; in the same folder it goes on from its checkpoint. So the same command begins a
study, goes on with it, and joins it. Members are ordinary runs in `logs/<config>/<study>/<member>/`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import compose, flatten
from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown, write, write_json
from src.kindling.runs.redact import redact, redacted
from src.kindling.runs.signals import Interrupted
from src.kindling.studies.plan import ENDED, Member, Outcome, Plan, for_members, outcomes
from src.kindling.studies.storage import connect, load_optuna, locked, patiently, reason
from src.kindling.training.slurm import requeue

if TYPE_CHECKING:
    import optuna


FREE = ("name", "tags", "save_minutes", "data.num_workers")  # what may differ between two commands of one study


# ---------------------------------------------------------------------------------------------------------------
# What the commands share


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
    from src.kindling.studies.worker import Worker, work_in_processes

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
    from src.kindling.analysis.leaderboard import as_page, rank, read

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
    from src.kindling.config import instantiate

    numbers = given.split(",")
    if not all(number.strip().isdigit() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise InputError(f"--seeds {given}: expected different whole numbers, such as 0,1,2")
    config = compose(name, words)
    if "seed" in config.origins:
        raise InputError(f"seed={config.values['seed']}: --seeds sets it; leave it out ({config.origin('seed')})")
    instantiate.check(config)
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
