"""Rank runs by their final metrics, with the config keys in which they differ."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError, did_you_mean, format_count, shorten_value
from src.kindling.runs import run as run_module
from src.kindling.runs.files import display_path, read_json, refuse_links
from src.kindling.runs.metric_names import canonical_name, mode_by_name
from src.kindling.runs.run import find_run, folder_label, is_own

RUN_FILES = {"run.json", "meta.json", "config.yaml"}  # a run has one of them, or is empty
LIMITS = ("trainer.limit_val_batches", "trainer.limit_test_batches")
# Metrics of other data, or of a few batches of it, cannot be compared.
DATA_KEYS = ("data._target_", "data.path", "data.root", "data.files", "data.target", *LIMITS)
MEASURED = ("data.split", "data.split_seed", *DATA_KEYS)
COSTS = ("seconds", "parameters")
FOLD = "data.fold"


@dataclass(frozen=True)
class Row:
    """One run, or the mean of several that differ only in seed or fold."""

    paths: list[Path]
    state: str  # `finished`, or why final metrics are missing: `running`, `failed`, `broken: …`
    facts: dict[str, Any] = field(default_factory=dict)  # run.json
    config: dict[str, Any] = field(default_factory=dict)
    # Metrics by canonical name, seconds and parameters; None for NaN.
    numbers: dict[str, float | None] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)  # of a mean, by n - 1

    @property
    def name(self) -> str:
        """`<config>/<time>`, `<config>/<study>` for its runs, or the path of a run elsewhere."""
        path, logs = self.paths[0], run_module.LOGS.resolve()
        if self.std and path.parents[2] == logs and len({p.parent for p in self.paths}) == 1:
            path = path.parent  # a study
        inside = path.is_relative_to(logs)
        name = path.relative_to(logs).as_posix() if inside else display_path(path)
        repeats = f" ({len(self.paths)} {'folds' if self.config.get(FOLD) else 'seeds'})"
        return name + repeats if self.std else name

    @property
    def label(self) -> str:
        """The name, with the one that the config gives the run."""
        given = str(self.config.get("name") or "")
        in_folder = f"_{folder_label(given)}" in self.name
        return f"{self.name}, {given}" if given and not in_folder else self.name

    @property
    def monitor(self) -> str:
        return canonical_name(str(self.facts.get("monitor")))

    def format(self, column: str) -> str:
        """Format a number, or a config value, for a table."""
        if column == "run":
            return self.label
        if column in self.config:
            value = self.config[column]
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text = text.rpartition(".")[2] if column.endswith("_target_") else text
            return text if len(text) <= 24 else shorten_value(text, value)
        number = self.numbers.get(column)
        if number is None:
            return "-"
        digits = ".4f" if number == 0 or abs(number) >= 1e-3 else ".3g"
        if column in COSTS:
            digits = ",.0f" if column == "parameters" else ".1f"
        elif column in self.std:
            return f"{number:{digits}} ± {self.std[column]:{digits}}"
        return f"{number:{digits}}"


@dataclass(frozen=True)
class Leaderboard:
    """Rows that are ranked together, the best one first, and their columns by importance."""

    title: str
    rows: list[Row]
    columns: list[str]

    @cached_property
    def labels(self) -> dict[str, str]:
        """The columns' headers: of a config key its last part, `lr`, if no other has the same."""
        keys = {key for row in self.rows for key in row.config}
        ends = {c: c.removesuffix("._target_").rpartition(".")[2] for c in self.columns}
        counts = Counter(ends.values())
        return {c: end if c in keys and counts[end] == 1 else c for c, end in ends.items()}


def find(words: Iterable[str]) -> list[Path]:
    """Find the directories of the runs that words name.

    Raises InputError with a line for each word that names none.
    """
    found, lines = [], []
    for word in words:
        try:
            found += _find(word)
        except InputError as error:
            lines += error.lines
    if lines:
        raise InputError([*dict.fromkeys(lines)])
    return found


def _find(word: str) -> list[Path]:
    """Find the directories of a run, a folder of runs, a pattern such as `digits/*`, or `latest`.

    Raises InputError with the nearest name when there are none.
    """
    path, logs = Path(word).expanduser(), run_module.LOGS.resolve()
    if path.name == "latest" or path.suffix == ".ckpt":
        return [find_run(word).path.resolve()]
    for base in (Path(), logs, ROOT):  # as load_run does
        is_folder = (base / path).is_dir()
        names = [str(path)] if is_folder else sorted(glob.glob(str(path), root_dir=base))
        if runs := [run for name in names for run in _walk(base / name)]:
            return runs
    known = [run.relative_to(logs).as_posix() for run in _walk(logs)]
    configs = sorted({name.partition("/")[0] for name in known})
    if not configs:
        raise InputError(f"{display_path(logs)}: no runs yet; start one with python -m src.train")
    near = did_you_mean(word.removeprefix("logs/"), [*configs, *known])
    raise InputError(f"{word}: no such runs{near} (configs with runs: {', '.join(configs)})")


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder.resolve()):
        is_empty = not folders and not files and Path(place) != run_module.LOGS.resolve()
        if RUN_FILES & {*files} or is_empty:
            yield Path(place)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read(path: Path) -> Row:
    """Read a run from its run.json; the state of a broken one names the problem."""
    try:
        if not is_own(path):
            refuse_links(path.resolve())
    except InputError as error:
        return Row([path], f"broken: {error.lines[0]}")
    try:
        facts = read_json(path / "run.json")
        metrics = {canonical_name(name): value for name, value in facts["metrics"].items()}
        given = {**metrics, **{name: facts[name] for name in COSTS}}
        # Statistics of NaN, infinite or huge values fail.
        numbers = {
            name: None if value is None or not abs(value) < 1e150 else value
            for name, value in given.items()
        }
        if isinstance(facts["config"], dict):
            return Row([path], str(facts["status"]), facts, facts["config"], numbers)
    except FileNotFoundError:
        return Row([path], "broken: no run.json" if any(path.iterdir()) else "broken: it is empty")
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        pass
    return Row([path], "broken: run.json is damaged")


def is_pair(runs: Sequence[Row], named: bool) -> bool:
    """Whether to test the difference of runs: of two, of one study only if each is `named`."""
    studies = {run.paths[0].parent / "study.json" for run in runs}
    one_study = len(studies) == 1 and studies.pop().exists()
    finished = [run for run in runs if run.state == "finished"]
    return len(finished) == len(runs) == 2 and (named or not one_study)


def read_seeds(word: str) -> tuple[Row, list[Row]]:
    """Read a study, a folder or a pattern of runs with several seeds: their mean, and each run."""
    runs = {run.paths[0]: run for run in map(read, find([word])) if run.state == "finished"}
    rows = average_repeats([*runs.values()])
    if len(rows) != 1 or len(rows[0].paths) < 2 or rows[0].config.get(FOLD):
        count = sum(len(row.paths) for row in rows)
        found = f"{format_count(count, 'run')} of {format_count(len(rows), 'config')}"
        expected = "expected finished runs of one config, with two or more seeds"
        raise InputError(f"--seeds {word}: {expected}, got {found}; train with --seeds 0,1,2")
    return rows[0], [runs[path] for path in rows[0].paths]


def rank(runs: Sequence[Row], sort: str | None = None) -> list[Leaderboard]:
    """Rank finished runs: together by the metric `sort`, or for each monitored metric and data."""
    sort, groups = sort and canonical_name(sort), defaultdict[str, list[Row]](list)
    for run in sorted(runs, key=lambda run: (str(run.facts.get("started")), run.name)):
        if run.state == "finished":
            measured = [run.monitor, run.facts.get("mode"), *map(run.config.get, DATA_KEYS)]
            groups["" if sort else json.dumps(measured)].append(run)
    names = sorted({name for group in groups.values() for run in group for name in run.numbers})
    if sort and groups and sort not in names:
        near = did_you_mean(sort, names)
        raise InputError(f"--sort {sort}: no such metric{near} (there are: {', '.join(names)})")
    return [_rank_group(group, sort or group[0].monitor) for group in groups.values()]


def _rank_group(runs: list[Row], by: str) -> Leaderboard:
    highest = mode_of(runs, by) != "min"
    rows = average_repeats(runs)
    rows.sort(key=lambda row: row.numbers.get(by) or 0, reverse=highest)
    rows.sort(key=lambda row: row.numbers.get(by) is None)
    metrics = {metric for run in runs for metric in run.numbers} - {*COSTS}
    order = sorted(
        metrics, key=lambda m: (m != by, not m.startswith("test/"), m.endswith("/loss"), m)
    )
    different = [key for key in find_differing_keys([row.config for row in rows]) if key != "name"]
    different.sort(key=lambda key: key.endswith("_target_"))
    columns = ["run", *order[:1], *different, *order[1:2], *COSTS, *order[2:]]
    targets = dict.fromkeys(run.config.get("data._target_") or "data of the task" for run in runs)
    differing = find_differing_keys([run.config for run in runs])
    values = {key: runs[0].config.get(key) for key in DATA_KEYS[1:] if key not in differing}
    data = [target.rpartition(".")[2] for target in targets]
    data += [f"{key.rpartition('.')[2]}={v}" for key, v in values.items() if v is not None]
    direction = "highest" if highest else "lowest"
    missing = "" if by in runs[0].numbers else " (not among the final metrics; pass --sort METRIC)"
    return Leaderboard(f"{', '.join(data)}: {by}, {direction} first{missing}", rows, columns)


def mode_of(runs: Sequence[Row], metric: str) -> str | None:
    """Return `min` or `max`: that of a run that monitors the metric, else by the metric's name."""
    name = metric.rpartition("/")[2]
    modes = {run.monitor.rpartition("/")[2]: run.facts.get("mode") for run in runs}
    return modes.get(name) or ("min" if name in COSTS else mode_by_name(name))


def average_repeats(runs: list[Row]) -> list[Row]:
    """Average runs that differ only in seed or fold; of a repeated one, the newest counts.

    Runs of a study are averaged among themselves, even if other runs have the same config.
    """
    alike = defaultdict[str, dict[str, list[Row]]](lambda: defaultdict(list))
    for run in runs:
        fold, seed = run.config.get(FOLD), run.config.get("seed")
        config = {**run.config, "seed": None, FOLD: fold[1:2] if isinstance(fold, list) else fold}
        folder = run.paths[0].parent
        study = str(folder) if (folder / "study.json").exists() else ""
        same = json.dumps([run.facts.get("config_name"), study, config], sort_keys=True)
        alike[same][json.dumps([seed, fold])].append(run)
    rows: list[Row] = []
    for repeats in alike.values():
        newest = [repeated[-1] for repeated in repeats.values()]
        rows += [_average(newest)] if len(newest) > 1 else next(iter(repeats.values()))
    return rows


def _average(runs: list[Row]) -> Row:
    config = dict(runs[0].config)
    for key in find_differing_keys([run.config for run in runs]):  # seed and fold
        config[key] = [run.config.get(key) for run in runs]
    columns = {name: [run.numbers.get(name) for run in runs] for name in runs[0].numbers}
    known: Any = {name: values for name, values in columns.items() if None not in values}
    mean: dict[str, float | None] = {name: fmean(values) for name, values in known.items()}
    std = {name: stdev(values) for name, values in known.items()}
    paths = [run.paths[0] for run in runs]
    return replace(runs[0], paths=paths, config=config, numbers=mean, std=std)


def find_differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all configs, or that some lack."""
    keys, missing = dict.fromkeys(key for config in configs for key in config), object()
    values = {key: [config.get(key, missing) for config in configs] for key in keys}
    return [key for key in keys if any(value != values[key][0] for value in values[key])]


def list_unranked(runs: Sequence[Row], boards: Sequence[Leaderboard]) -> list[str]:
    """Explain in lines why runs are in no leaderboard, or in different ones."""
    ranked = {path for board in boards for row in board.rows for path in row.paths}
    newer = "a newer run has the same config and seed"
    lines = [
        f"not ranked: {run.name}: {newer if run.state == 'finished' else run.state}"
        for run in runs
        if run.paths[0] not in ranked
    ]
    if len(boards) > 1:
        lines.append(
            "runs with another monitored metric, other data or limited batches are ranked "
            "separately; pass --sort METRIC to rank all"
        )
    return lines
