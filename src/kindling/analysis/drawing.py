"""Helpers that all plots share: panels, labels, text tables, and the files that figures become.

A figure is a matplotlib `Figure` made without pyplot, which would keep it in global state.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from src.kindling.analysis.predictions import Array

SAMPLES = 16  # of a gallery
BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.6"
# A figure's gid says how the report shows it: as text, or as photographs.
TEXT, PHOTOS = "text", "photos"
NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]\d+)?(%| [kMGT])?|nan|-?inf|missing|")


def render(figure: Figure) -> Array:
    """Draw a figure as pixels `(height, width, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


def encode_png(figure: Figure) -> tuple[bytes, int, int]:
    """Return a PNG file with the gid and label as text chunks, its height and its width."""
    pixels, chunks, file = render(figure), PngInfo(), io.BytesIO()
    for key, text in (("Kind", figure.get_gid()), ("Description", figure.get_label())):
        if text:
            chunks.add_itxt(key, str(text), zip=True)
    Image.fromarray(pixels).save(file, "PNG", compress_level=3, pnginfo=chunks)
    return file.getvalue(), *pixels.shape[:2]


def encode_svg(figure: Figure) -> str:
    """Return an SVG element for a page; the same figure always gives the same text."""
    file, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": ""}):
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return file.getvalue()[file.getvalue().index("<svg") :]


def shorten_label(name: str, most: int = 20) -> str:
    """Put a name on one line, cut it in its middle, and escape matplotlib's math mode."""
    name = " ".join(name.split())
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[most // 2 - most + 1 :]}"
    return name.replace("$", r"\$")


def create_panels(
    count: int,
    width: float,
    height: float,
    across: int = 1,
    *,
    left: float = 0.7,
    bottom: float = 0.55,
    right: float = 0.25,
    top: float = 0.35,
    head: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Create a figure of axes of one size, each with the same margins, under a head; all in inches.

    matplotlib's own layouts draw all texts twice, which takes most of the time.
    """
    across = min(across, count)
    down, cell_width, cell_height = -(-count // across), left + width + right, bottom + height + top
    total_width, total_height = cell_width * across, cell_height * down + head
    figure = Figure(figsize=(total_width, total_height), dpi=100)
    for i in range(count):
        x = i % across * cell_width + left
        y = (down - 1 - i // across) * cell_height + bottom
        box = (x / total_width, y / total_height, width / total_width, height / total_height)
        axis = figure.add_axes(box)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=5)
    return figure, figure.axes


def set_titles(
    axis: Axes, title: str, x: str = "", y: str = "", loc: Literal["left", "center"] = "center"
) -> None:
    """Set the title and the axis labels."""
    # With y given, matplotlib measures no ticks to find a free place for the title.
    axis.set_title(title, loc=loc, y=1.0, fontsize=10)
    axis.set(xlabel=x, ylabel=y)


def set_log_scale(axis: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers: matplotlib's formulas are slow to parse."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(LogFormatter())


def draw_message(text: str) -> Figure:
    """Draw a text where there is nothing to plot."""
    figure, (axis,) = create_panels(1, 5, 0.2)
    axis.axis("off")
    set_titles(axis, shorten_label(text, 80))
    return figure


def draw_table(columns: Mapping[str, Sequence[str]], title: str) -> Figure:
    """Draw columns as one text, faster than cells; the figure's label is the whole text."""
    short = {shorten_label(k, 24): [shorten_label(c, 24) for c in v] for k, v in columns.items()}
    text = format_table(short)
    lines = text.splitlines()
    width, height = 0.07 * max(map(len, lines)), 0.145 * len(lines)
    figure, (axis,) = create_panels(1, width, height, left=0.2, bottom=0.1)
    axis.axis("off")
    set_titles(axis, shorten_label(title, 100), loc="left")
    axis.text(0, 1, text, transform=axis.transAxes, va="top", family="monospace", fontsize=8)
    figure.set_label(f"{title}\n\n{format_table(columns)}")
    figure.set_gid(TEXT)
    return figure


def format_table(columns: Mapping[str, Sequence[str]]) -> str:
    """Format columns side by side, a line for each row, with numbers aligned to the right."""
    padded = []
    for name, values in columns.items():
        cells = [" ".join(cell.split()) for cell in (name, *values)]
        width, numeric = max(map(len, cells)), all(map(NUMBER.fullmatch, cells[1:]))
        padded.append([cell.rjust(width) if numeric else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
