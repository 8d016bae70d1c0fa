"""A leaderboard on the terminal, as CSV, and as a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from rich.cells import cell_len
from rich.console import Console

from src.kindling.analysis.drawing import encode_svg
from src.kindling.analysis.history import compare_curves
from src.kindling.analysis.leaderboard import COSTS, Leaderboard, Row, find_differing_keys
from src.kindling.config.errors import escape_control, join_names
from src.kindling.runs import csv_text

WIDE = 8  # columns beside the run's in one table of the page
DRAWN = 10  # rows whose curves are drawn: more look alike


def show(board: Leaderboard) -> list[str]:
    """Print a leaderboard: the first columns that fit on the terminal, or into 80 characters.

    Returns the labels of the other columns.
    """
    console = Console(markup=False, highlight=False)
    labels = board.labels
    cells = {
        escape_control(f" {labels[c]}"): [escape_control(f" {row.format(c)}") for row in board.rows]
        for c in board.columns
    }
    table, count = pd.DataFrame(cells), len(cells)
    lines = table.to_string(index=False).splitlines()
    while count > 1 and max(map(cell_len, lines)) > console.width:
        count -= 1
        lines = table.iloc[:, :count].to_string(index=False).splitlines()
    print(escape_control(board.title))
    console.print(lines[0], style="bold", soft_wrap=True)
    print("\n".join(lines[1:]))
    print()
    return [labels[column] for column in board.columns[count:]]


def format_hidden(names: Sequence[str]) -> str:
    """Write a line about the columns for which the terminal is too narrow, each named once."""
    hidden = join_names([*dict.fromkeys(names)], 3)
    return f"no room for {hidden}; pass --csv FILE or --html FILE\n" if hidden else ""


def to_csv(runs: Sequence[Row], exact: bool = False) -> str:
    """Write a row for each run, unfinished ones too; `exact` keeps text that may be a formula."""
    runs = [run for run in runs if run.facts]
    facts = ("config_name", "status", "started", "monitor", "mode")
    names = {name for run in runs for name in run.numbers}
    columns = ["run", *facts, *sorted(names, key=lambda name: (name in COSTS, name))]
    columns += find_differing_keys([run.config for run in runs])
    rows = [{**run.config, **run.facts, **run.numbers, "run": run.name} for run in runs]
    return csv_text.to_csv(pd.DataFrame(rows, columns=columns, dtype=object), exact)


def to_html(
    boards: Sequence[Leaderboard],
    lines: Sequence[str],
    title: str = "Runs",
    images: Sequence[Path] = (),
) -> str:
    """Render a page that needs no other file: PNG files, leaderboards with curves, and lines."""
    template = Path(__file__).with_name("leaderboard.html").read_text(encoding="utf-8")
    encoded = [(path.stem, b64encode(path.read_bytes()).decode()) for path in images]
    drawn = [(board, _draw_curves(board)) for board in boards]
    page = Environment(autoescape=True).from_string(template)
    numbers = {"wide": WIDE, "drawn": DRAWN}
    return page.render(title=title, lines=lines, images=encoded, boards=drawn, **numbers)


def _draw_curves(board: Leaderboard) -> str:
    """Draw the monitored metrics and the losses of the best rows as SVG."""
    metrics = dict.fromkeys([*(row.monitor for row in board.rows), "val/loss", "train/loss"])
    figure = compare_curves({row.label: row.paths for row in board.rows[:DRAWN]}, metrics)
    return "" if figure is None else encode_svg(figure)
