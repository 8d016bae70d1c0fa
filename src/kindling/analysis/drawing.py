"""Helpers that all plots share: panels, labels, text tables, and the files that figures become.

A figure is a matplotlib `Figure` made without pyplot, which would keep it in global state.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from src.kindling.config.errors import escape_control, format_float

BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.6"
# A figure's gid: whether the report shows it as text or as photographs.
TEXT, PHOTOS = "text", "photos"


def encode_png(figure: Figure) -> bytes:
    """Return a PNG file; gid and label of the figure become its texts Kind and Description."""
    file = io.BytesIO()
    texts = {"Kind": figure.get_gid(), "Description": str(figure.get_label()) or None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as boxes
        canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
        canvas.print_png(file, metadata=texts)  # savefig draws twice
    return file.getvalue()


def encode_svg(figure: Figure) -> str:
    """Return an SVG element for a page; the same figure always gives the same text."""
    file, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": ""}):
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return file.getvalue()[file.getvalue().index("<svg") :]


def shorten_label(name: str, most: int = 20) -> str:
    """Put a name on one line, cut it in its middle, and escape matplotlib's math mode."""
    name = escape_control(" ".join(name.split()))
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[most // 2 - most + 1 :]}"
    return name.replace("$", r"\$")


def create_panels(
    count: int, width: float, height: float, across: int = 1, head: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Create a figure of `count` axes, `across` in a row, with room for a title of `head` inches.

    Each takes `width` by `height` inches with its labels.
    """
    across = min(across, count)
    down = -(-count // across)
    size = max(width * across, 4.0), height * down + head
    figure = Figure(size, layout="constrained")
    axes: list[Axes] = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:count]


def set_titles(axis: Axes, title: str, x: str = "", y: str = "") -> None:
    """Set the title and the axis labels."""
    axis.set_title(title, fontsize=10)
    axis.set(xlabel=x, ylabel=y)


def draw_message(text: str) -> Figure:
    """Draw a text where there is nothing to plot."""
    figure = Figure((6.0, 1.1))
    figure.suptitle(shorten_label(text, 80), y=0.6, fontsize=10)
    return figure


def draw_table(table: pd.DataFrame, title: str) -> Figure:
    """Draw a table as text with cells of up to 24 characters; the figure's label is all of it."""
    short = _format_cells(table).map(lambda cell: shorten_label(cell, 24))
    text = format_table(short.rename(columns=lambda name: shorten_label(name, 24)))
    lines = [shorten_label(title, 100), "", *text.splitlines()]
    figure = Figure((0.4 + 0.07 * max(map(len, lines)), 0.3 + 0.145 * len(lines)))
    style = {"va": "center", "ha": "center", "family": "monospace", "fontsize": 8}
    figure.text(0.5, 0.5, "\n".join(lines), style)
    figure.set_label(f"{title}\n\n{format_table(table)}")
    figure.set_gid(TEXT)
    return figure


def format_table(table: pd.DataFrame) -> str:
    """Format a table as text, a line for each row."""
    wide = _format_cells(table).map(" {}".format).add_prefix(" ")  # two spaces between columns
    return str(wide.to_string(index=False))


def _format_cells(table: pd.DataFrame) -> pd.DataFrame:
    def format_cell(cell: Any) -> str:
        if isinstance(cell, float):
            return "missing" if cell != cell else format_float(cell)
        return f"{cell:,}" if isinstance(cell, int) else " ".join(str(cell).split())

    return table.astype(object).map(format_cell)
