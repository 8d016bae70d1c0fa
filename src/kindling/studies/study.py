"""Run a study: many runs of one config, in `logs/<config>/<study>/<member>/`."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.runs.files import display_path, write, write_json
from src.kindling.runs.redact import redact, redacted
from src.kindling.runs.run import ELSEWHERE
from src.kindling.runs.signals import Interrupted
from src.kindling.studies.optuna_queue import make_queue
from src.kindling.studies.plan import ENDED, Plan, TrialResult
from src.kindling.studies.trial_queue import TrialQueue
from src.kindling.studies.worker import Worker, work_in_processes
from src.kindling.training.slurm import requeue

Summary = dict[str, dict[str, float]]


def begin_study(plan: Plan) -> TrialQueue:
    """Create a study, or open the one of this name; raise InputError if its settings differ."""
    if not re.fullmatch(r"\w[\w.-]*", plan.study):
        raise InputError(f"--name {plan.study}: expected letters, digits, '-', '_' and '.'")
    queue, settings, folder = make_queue(plan), plan.settings, display_path(plan.folder)
    try:
        known = queue.open(settings)
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; {ELSEWHERE}") from None
    stem, _, number = plan.study.rpartition("_")
    other = f"{stem}_{int(number) + 1}" if stem and number.isdigit() else f"{plan.study}_2"
    if known is None:
        problem = "holds runs of a study whose settings are unknown"
        remedy = f"remove them, or begin another study: --name {other}"
        raise InputError(f"{folder}: {problem}; {remedy}")
    lines = [
        f"{key}: {plan.name} has {known.get(key)}, not {settings.get(key)}"
        for key in known | settings
        if known.get(key) != settings.get(key)
    ]
    if lines:
        remedy = f"{plan.name}: a study keeps its settings; for another study: --name {other}"
        raise InputError([*lines, remedy])
    return queue


def run_study(plan: Plan, workers: int = 1, retry: bool = False) -> list[TrialResult]:
    """Train the members that are left, with `retry` the failed ones too; return all results.

    Raises InputError when every worker was killed, and Interrupted when a signal stopped it.
    """
    queue = begin_study(plan)
    if retry:
        queue.retry_failed()
    left = sum(result.state not in ENDED for result in queue.results())
    counts = f"{format_count(len(plan.members), 'member')}, {left} to run, {workers} at a time"
    print(f"{plan.name}: {counts}", flush=True)
    try:
        if left and workers == 1:
            Worker(plan).work()
        elif left:
            work_in_processes(plan, workers)
    except Interrupted as interrupted:
        print(f"\n{interrupted.name}: stopped; run the same command to continue {plan.name}")
        if interrupted.name == "SIGUSR1":
            requeue()
        raise
    return queue.results()


def finish_study(
    plan: Plan, results: Sequence[TrialResult], extra: Mapping[str, Any], lines: Sequence[str]
) -> None:
    """Write study.json with `extra`, report.html with `lines`; exit with 1 if a member failed."""
    from src.kindling.analysis.leaderboard import rank, read
    from src.kindling.analysis.leaderboard_formats import to_html

    keys = ("study", "config", "overrides", "monitor", "mode", "about", "settings")
    facts = redacted({key: getattr(plan, key) for key in keys})
    members = [asdict(result) for result in results]
    write_json(plan.folder / "study.json", {**facts, **extra, "members": members})
    folders = [plan.folder / result.name for result in results if result.state == "finished"]
    runs = [read(path) for path in folders if path.exists()]  # others are on other machines
    command = redact(shlex.join(["python", *plan.command[1:]]))
    lines = [*lines, f"Members: {count_states(results)}.", f"Command: {command}"]
    plots, report = sorted((plan.folder / "plots").glob("*.png")), plan.folder / "report.html"
    write(report, to_html(rank(runs), lines, plan.name, plots))
    print(f"report     {display_path(report)}")
    print(f"study      {display_path(plan.folder)}: study.json, and a run for each member")
    if failed := [result.name for result in results if result.state == "failed"]:
        remedy = "the same command with --retry runs them again"
        print(f"failed     {len(failed)} of {len(results)}: {join_names(failed)}; {remedy}")
        raise SystemExit(1)


def count_states(results: Sequence[TrialResult]) -> str:
    """`8 finished, 1 failed`."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def summarize(results: Sequence[TrialResult]) -> Summary:
    """Mean and standard deviation of each metric that is a number in all finished members."""
    runs: list[dict[str, Any]] = [one.metrics for one in results if one.state == "finished"]
    summary: Summary = {}
    for name in runs[0] if len(runs) > 1 else ():
        column = [run.get(name) for run in runs]
        values = [value for value in column if value is not None and value == value]
        if len(values) == len(runs):
            summary[name] = {"mean": fmean(values), "std": stdev(values)}
        else:
            print(f"{name}: left out, undefined in {len(runs) - len(values)} of {len(runs)} runs")
    return summary


def print_summary(summary: Summary, title: str) -> list[str]:
    """Print mean, standard deviation and interval of each metric; return the report's lines."""
    import pandas as pd

    if not summary:
        return []
    interval, lines = "95 % interval of the mean", []
    rows: dict[str, dict[str, str]] = {}
    for name, row in summary.items():
        rows[name] = {title: f"{row['mean']:.4f} ± {row['std']:.4f}"}
        line = f"{name}: {rows[name][title]}"
        if "low" in row:
            rows[name][interval] = f"{row['low']:.4f} to {row['high']:.4f}"
            line += f", {interval} {rows[name][interval]}"
        lines.append(line)
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="metric")
    print(f"\n{frame.to_string(na_rep='', col_space=28)}\n")
    return lines
