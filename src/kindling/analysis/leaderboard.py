"""Compare runs: what they reached, how they differ, their curves, and whether a difference is real.

python -m src.compare [RUN | FOLDER | 'digits/*' ...] [--sort METRIC] [--paired A B] [--html FILE] [--csv FILE]
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.runs import run as run_module
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.run import find_run

LESS = ("loss", "mae", "mse", "rmse", "error")  # less of these is better; more of all else, if no task says so
FILES = {"run.json", "meta.json", "config.yaml"}  # a run's directory holds at least one of them, or nothing
# On which data a run was measured: numbers of other data, or of a few batches, are neither higher nor lower.
LIMITS = ("trainer.limit_val_batches", "trainer.limit_test_batches")
OF_DATA = ("data._target_", "data.path", "data.root", "data.files", "data.target", *LIMITS)
SIZE = ("seconds", "parameters")
FOLD = "data.fold"
DRAWN = 10  # rows whose curves are drawn: more could not be told apart


@dataclass(frozen=True)
class Row:
    """One run, or the mean of several that differ in their seed or their fold only, with its deviation (of n - 1).

    The state is `finished`, or why there are no final numbers: `running`, `interrupted`, `failed`, `broken: …`.
    The numbers are the final metrics, the seconds and the parameters; None stands for NaN.
    """

    paths: list[Path]
    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, float | None] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<config>/<time>`, `<config>/<study>` of all its members, or the path of a run that lies elsewhere."""
        path, logs = self.paths[0], run_module.LOGS.resolve()
        if self.std and path.parent.parent.parent == logs and len({path.parent for path in self.paths}) == 1:
            path = path.parent  # a study
        name = path.relative_to(logs).as_posix() if path.is_relative_to(logs) else shown(path)
        return f"{name} ({len(self.paths)} {'folds' if self.config.get(FOLD) else 'seeds'})" if self.std else name

    def text(self, column: str) -> str:
        """A value as it is shown: a number, or a config's value, shortened."""
        value, std = self.numbers.get(column), self.std.get(column)
        if column in self.config:
            given = self.config[column]
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            text = text.rpartition(".")[2] if column.endswith("_target_") else text
            return text if len(text) <= 24 else f"{text[:10]}…{text[-13:]}"
        if value is None:
            return self.name if column == "run" else "-"
        form = ".4f" if value == 0 or abs(value) >= 1e-3 else ".3g"
        form = {"seconds": ".1f", "parameters": ",.0f"}.get(column, form)
        return f"{value:{form}}" + (f" ± {std:{form}}" if std is not None and column not in SIZE else "")


@dataclass(frozen=True)
class Board:
    """Rows that are ranked together, the best one first, and their columns, the most telling ones first."""

    title: str
    rows: list[Row]
    columns: list[str]


def find(word: str) -> list[Path]:
    """The directories that a word means: a run, a folder of runs, a pattern such as `digits/*`, or `latest`.

    Raises:
        InputError: when there are none, with the nearest name that there is.
    """
    path, logs = Path(word).expanduser(), run_module.LOGS.resolve()
    if path.name == "latest" or path.suffix == ".ckpt":
        return [find_run(word).path.resolve()]
    for base in (Path(), logs, ROOT):  # as load_run does
        names = [str(path)] if (base / path).is_dir() else sorted(glob.glob(str(path), root_dir=base))
        if runs := [run for name in names for run in _walk(base / name)]:
            return runs
    held = [run.relative_to(logs).as_posix() for run in _walk(logs)]
    names = sorted({name.partition("/")[0] for name in held})
    if not names:
        raise InputError(f"{shown(logs)}: no runs yet; python -m src.train makes one")
    near = did_you_mean(word.removeprefix("logs/"), [*names, *held])
    raise InputError(f"{word}: no runs there{near} (there are runs of: {', '.join(names)})")


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder.resolve()):
        if FILES & {*files} or not (folders or files or Path(place) == run_module.LOGS.resolve()):
            yield Path(place)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read(path: Path) -> Row:
    """A run, from its run.json alone; a broken one says so in its state."""
    try:
        facts = read_json(path / "run.json")
        numbers = {**facts["metrics"], **{name: facts[name] for name in SIZE}}
        if isinstance(facts["config"], dict) and all(isinstance(n, float | int | None) for n in numbers.values()):
            return Row([path], str(facts["status"]), facts, facts["config"], numbers)
    except FileNotFoundError:
        return Row([path], "broken: no run.json" if any(path.iterdir()) else "broken: it is empty")
    except (InputError, OSError, KeyError, TypeError):
        pass
    return Row([path], "broken: run.json is damaged")


def rank(runs: Sequence[Row], sort: str | None = None) -> list[Board]:
    """The leaderboards of what has finished: one by the metric `sort`, or one for each monitored metric and data.

    Raises:
        InputError: when no run has the metric `sort`.
    """
    groups: dict[str, list[Row]] = {}
    for run in sorted(runs, key=lambda run: (str(run.facts.get("started")), run.name)):
        if run.state == "finished":
            measured = [run.facts.get("monitor"), run.facts.get("mode"), *map(run.config.get, OF_DATA)]
            groups.setdefault("" if sort else json.dumps(measured), []).append(run)
    names = sorted({name for group in groups.values() for run in group for name in run.numbers})
    if sort and groups and sort not in names:
        raise InputError(f"--sort {sort}: no such metric{did_you_mean(sort, names)} (there are: {', '.join(names)})")
    return [_board(group, sort or str(group[0].facts.get("monitor"))) for group in groups.values()]


def _board(runs: list[Row], by: str) -> Board:
    name = by.rpartition("/")[2]
    modes = {str(run.facts.get("monitor")).rpartition("/")[2]: run.facts.get("mode") for run in runs}
    highest = modes[name] == "max" if name in modes else name.rpartition("_")[2] not in (*LESS, *SIZE)
    alike: dict[str, dict[Any, list[Row]]] = {}
    for run in runs:
        fold, seed = run.config.get(FOLD), run.config.get("seed")
        config = {**run.config, "seed": None, FOLD: fold and fold[1:2]}
        same = json.dumps([run.facts.get("config_name"), config], sort_keys=True)
        alike.setdefault(same, {}).setdefault(json.dumps([seed, fold]), []).append(run)
    rows: list[Row] = []
    for parts in alike.values():  # of several seeds or folds, the newest run of each counts
        rows += [_mean([repeated[-1] for repeated in parts.values()])] if len(parts) > 1 else next(iter(parts.values()))
    rows.sort(key=lambda row: (row.numbers.get(by) is None, (row.numbers.get(by) or 0) * (-1 if highest else 1)))
    metrics = {metric for run in runs for metric in run.numbers} - {*SIZE}
    order = sorted(metrics, key=lambda m: (m != by, not m.startswith("test/"), m.endswith("/loss"), m))
    first, second, *rest = [*order, "", ""]
    columns = ["run", first, second, *differing([row.config for row in rows]), *SIZE, *rest]
    data = dict.fromkeys(str(run.config.get("data._target_")).rpartition(".")[2] for run in runs)
    lacking = "" if by in runs[0].numbers else " (not among the final numbers: see --sort)"
    apart = differing([run.config for run in runs])
    limits = [f"{k.rpartition('.')[2]}={runs[0].config[k]}" for k in LIMITS if k in runs[0].config and k not in apart]
    title = f"{', '.join([*data, *limits])}: {by}, {'highest' if highest else 'lowest'} first{lacking}"
    return Board(title, rows, [column for column in columns if column])


def _mean(runs: list[Row]) -> Row:
    columns = {name: [run.numbers.get(name) for run in runs] for name in runs[0].numbers}
    known = {name: [v for v in values if v is not None] for name, values in columns.items() if None not in values}
    config = dict(runs[0].config)
    for key in ("seed", FOLD):
        values = [run.config.get(key) for run in runs]
        if any(value != values[0] for value in values):
            config[key] = values
    return replace(runs[0], paths=[run.paths[0] for run in runs], config=config,
                   numbers={name: fmean(values) for name, values in known.items()},
                   std={name: stdev(values) for name, values in known.items()})  # fmt: skip


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all the configs; one that is missing somewhere is not."""
    keys, missing = dict.fromkeys(key for config in configs for key in config), object()
    return [key for key in keys if any(c.get(key, missing) != configs[0].get(key, missing) for c in configs)]


# ---------------------------------------------------------------------------------------------------------------
# Terminal, table, page


def show(board: Board) -> None:
    """Print a leaderboard: on a terminal the most telling columns that fit, elsewhere all."""
    from rich.cells import cell_len
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    columns = {column: [column, *(row.text(column) for row in board.rows)] for column in board.columns}
    widths = {column: 2 + max(map(cell_len, texts)) for column, texts in columns.items()}
    room = console.width + 2 if console.is_terminal else sum(widths.values())
    # Lines are padded here: a table of rich's takes two milliseconds a row, and there may be a thousand.
    kept: list[list[str]] = []
    for column, width in widths.items():
        if width <= room:
            room -= width
            number = any(column in run.numbers for run in board.rows)
            spaces = [" " * (width - 2 - cell_len(text)) for text in columns[column]]
            kept.append([space + text if number else text + space
                         for text, space in zip(columns[column], spaces, strict=True)])  # fmt: skip
    head, *lines = ("  ".join(cells).rstrip() for cells in zip(*kept, strict=True))
    print(board.title)
    console.print(head, style="bold", soft_wrap=True)
    print("\n".join(lines))
    there = {cells[0].strip() for cells in kept}
    left = [column for column in widths if column not in there]
    print(f"no room for {', '.join(left)}: --csv and --html have them\n" if left else "")


def as_csv(runs: Sequence[Row]) -> str:
    """One row a run, the unfinished too: its final numbers, and the config keys in which the runs differ."""
    runs = [run for run in runs if run.facts]
    facts = ("config_name", "status", "started", "monitor", "mode")
    numbers = sorted({name for run in runs for name in run.numbers}, key=lambda name: (name in SIZE, name))
    keys, text = differing([run.config for run in runs]), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *facts, *numbers, *keys])
    for run in runs:
        known = [*map(run.facts.get, facts), *map(run.numbers.get, numbers), *map(run.config.get, keys)]
        writer.writerow([run.name, *known])
    return text.getvalue()


def as_page(boards: Sequence[Board], lines: Sequence[str], title: str = "Runs", pictures: Sequence[Path] = ()) -> str:
    """A page that needs no other file: PNG files, the leaderboards with their curves, and some lines."""
    body = [f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{b64encode(path.read_bytes()).decode()}">'
            for path in pictures]  # fmt: skip
    for board in boards:
        cells = [[f"<th>{escape(column)}</th>" for column in board.columns]]
        cells += [[f"<td>{escape(row.text(column))}</td>" for column in board.columns] for row in board.rows]
        table = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        body += [f"<h2>{escape(board.title)}</h2>", f"<div><table>\n{table}</table></div>", curves(board)]
    page = PAGE.replace("TITLE", escape(title))
    return page.replace("BODY", "\n".join([*(f"<p>{escape(line)}</p>" for line in lines), *body]))


def curves(board: Board) -> str:
    """The monitored metric and the losses over the epochs, a line for each seed of the best rows: an SVG each."""
    from matplotlib import rc_context
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [(row.name, [_epochs(path) for path in row.paths]) for row in board.rows[:DRAWN]]
    wanted = dict.fromkeys([*(str(row.facts.get("monitor")) for row in board.rows), "val/loss", "train/loss"])
    names = [name for name in wanted if any(name in run for _, runs in drawn for run in runs)]
    if not names:
        return ""
    ink = "#010203"  # stands for the page's colour of text
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "", **dict.fromkeys(inked, ink)}
    more = f"<li>the best {DRAWN} of {len(board.rows)}</li>" if len(board.rows) > DRAWN else ""
    legend = [f'<li><span style="color: {to_hex(f"C{i}")}">●</span> {escape(title)}</li>'
              for i, (title, _) in enumerate(drawn)]  # fmt: skip
    found = [f'<ul class="legend">{"".join(legend)}{more}</ul>', '<div class="curves">']
    with rc_context(style):
        for name in names:
            figure, svg = Figure(figsize=(4.5, 3.2), layout="constrained"), io.StringIO()
            axis = figure.add_subplot(title=name.replace("$", r"\$"), xlabel="epoch")
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            for i, (_, runs) in enumerate(drawn):
                for run in runs:
                    values = run.get(name, {})
                    marker = "." if len(values) < 30 else ""
                    axis.plot([*values], [*values.values()], f"C{i}", marker=marker, linewidth=1, markersize=4)
            figure.savefig(
                svg, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
            )
            found.append(svg.getvalue()[svg.getvalue().index("<svg") :].replace(ink, "currentColor"))
    return "\n".join([*found, "</div>"])


def _epochs(path: Path) -> dict[str, dict[int, float]]:
    """Each metric's values at the ends of the epochs, which count from 1, as far as metrics.csv is readable."""
    found: dict[str, dict[int, float]] = {}
    damage = suppress(OSError, ValueError, KeyError, TypeError, csv.Error)
    with damage, (path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            epoch = int(row["epoch"]) + 1
            for name in row.keys() - {"epoch", "step"}:
                if row[name]:
                    found.setdefault(name, {})[epoch] = float(row[name])
    return found


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>TITLE</title><style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1f; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --paper: #17171a; --ink: #e4e4e8; --line: #3a3a40; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: clamp(.8rem, 3vw, 2rem); background: var(--paper); color: var(--ink); }
h1, h2, li { overflow-wrap: anywhere; }
div { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
img { max-width: 100%; height: auto; margin-top: 1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.5rem; list-style: none; padding: 0; margin: 1rem 0 0; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; } .curves svg { width: 28rem; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { img { filter: invert(.89) hue-rotate(180deg); } }
</style></head><body><h1>TITLE</h1>
BODY
</body></html>
"""
