"""Pictures of predictions; the tasks' `figures` are made of them.

Each is a matplotlib Figure of its own, made of plain arrays, without pyplot and its global state.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from src.kindling.analysis.predictions import Array, Predictions

# How much one picture shows; where that is not all, it says so.
SAMPLES, OUTPUTS = 16, 6
DOTS = 3_000  # rows, drawn at random, of a scatter plot
BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.6"
TEXT, PHOTOS = "text", "photos"  # gids of figures for reports: of one whose label says it all, and of photographs


def pixels(figure: Figure) -> Array:
    """The figure drawn, `(height, width, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a script without a font is drawn as boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


def png(figure: Figure) -> tuple[bytes, int, int]:
    """The figure as a PNG file's bytes, with what it says as text, for the report; its height and width in pixels."""
    drawn, about, file = pixels(figure), PngInfo(), io.BytesIO()
    for key, said in (("Kind", figure.get_gid()), ("Description", figure.get_label())):
        if said:
            about.add_itxt(key, str(said), zip=True)
    Image.fromarray(drawn).save(file, "PNG", compress_level=3, pnginfo=about)
    return file.getvalue(), *drawn.shape[:2]


def label(name: str, most: int = 20) -> str:
    """A name as matplotlib should show it: on one line, shortened in its middle, and never read as a formula."""
    name = " ".join(name.split())
    return (name if len(name) <= most else f"{name[: most // 2]}…{name[most // 2 - most + 1 :]}").replace("$", r"\$")


def message(text: str) -> Figure:
    """A picture that says why there is none."""
    figure, (axis,) = panels(1, 5, 0.2)
    axis.axis("off")
    titled(axis, label(text, 80))
    return figure


def panels(
    count: int, width: float, height: float, across: int = 1, left: float = 0.7, bottom: float = 0.55,
    right: float = 0.25, top: float = 0.35, head: float = 0.0,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with so many axes of that size in inches, each with these margins, and a head for its title.

    A layout that fits itself to its texts would lay them all out twice, and that is what takes time.
    """
    across = min(across, count)
    down, w, h = -(-count // across), left + width + right, bottom + height + top
    whole = w * across, h * down + head
    figure = Figure(figsize=whole, dpi=100)
    for place in range(count):
        x, y = place % across * w + left, (down - 1 - place // across) * h + bottom
        axis = figure.add_axes((x / whole[0], y / whole[1], width / whole[0], height / whole[1]))
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=5)
    return figure, figure.axes


def titled(axis: Axes, title: str, x: str = "", y: str = "", loc: Literal["left", "center"] = "center") -> None:
    # At a fixed height: matplotlib would measure all ticks to find one where the title is clear of them.
    axis.set_title(title, loc=loc, y=1.0, fontsize=10)
    axis.set(xlabel=x, ylabel=y)


def logarithmic(axis: Axes) -> None:
    """A logarithmic y axis whose numbers are plain text: matplotlib's own are formulas, slow to parse."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(LogFormatter())


# ---------------------------------------------------------------------------------------------------------------
# Samples


def samples(
    predictions: Predictions, title: str, captions: Mapping[str, Sequence[str]], good: Sequence[bool] = ()
) -> Figure:
    """Samples as pictures over their captions, or, where they are rows of a table, as its rows.

    Args:
        predictions: of the samples, all of which are shown.
        title: of the figure.
        captions: by what they say ("true"), a text for each sample.
        good: whether a sample's last caption is green or red; black where left out.
    """
    if not len(predictions):
        return message(f"{title}: none")
    names = [predictions.name(row) for row in range(len(predictions))]
    if predictions.spec.kind != "image" or predictions.samples is None:
        if len(good):
            captions = {**captions, "wrong": ["" if right else "✗" for right in good]}
        return table({"": names, **captions, **_features(predictions)}, title)
    # A path stands in two lines: its folder, and its name.
    folders = [name.rpartition("/")[0] for name in names]
    above = [[f"{folder}/" if folder else "", name.rpartition("/")[2]][not any(folders) :]
             for folder, name in zip(folders, names, strict=True)]  # fmt: skip
    lines = [[*above[i], *(f"{key} {said[i]}" for key, said in captions.items())] for i in range(len(names))]
    colors = ["tab:green" if right else "tab:red" for right in good]
    figure = grid(predictions.inputs(slice(None)), lines, title, colors, grey=len(above[0]))
    figure.set_label(as_text({"": names, **captions}))
    return figure


def grid(
    x: torch.Tensor, lines: Sequence[Sequence[str]], title: str, colors: Sequence[str] = (), across: int = 8,
    foot: float = 0.0, grey: int = 1,
) -> Figure:  # fmt: skip
    """Images `(N, C, H, W)` of any kind, in rows, each over its lines: the first `grey`, the last in its color.

    Below them a foot of so many inches is left free.
    """
    images = visible(x)
    high, text = 0.92 * images.shape[1] / images.shape[2], 0.12 * len(lines[0]) + 0.13  # in places across
    in_row, across, down = across, max(3, min(across, len(images))), -(-len(images) // across)
    figure, (axis,) = panels(1, 1.5 * across, 1.5 * (high + text) * down, left=0, right=0, bottom=foot)
    axis.axis("off")
    titled(axis, label(title, 100))
    smooth = "nearest" if max(images.shape[1:3]) < 64 else "antialiased"
    for i, image in enumerate(images):
        left, top = i % in_row, i // in_row * (high + text)
        extent = (left + 0.04, left + 0.96, top + high, top)
        axis.imshow(image, "gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation=smooth)
        for place, line in enumerate(lines[i]):
            color = GREY if place < grey else colors[i] if len(colors) and line is lines[i][-1] else "black"
            y = top + high + 0.03 + 0.12 * place
            axis.text(left + 0.5, y, label(line, 24), ha="center", va="top", fontsize=7, color=color)
    axis.set(xlim=(0, across), ylim=(down * (high + text), 0))
    figure.set_gid(PHOTOS)
    return figure


def visible(x: torch.Tensor) -> Array:
    """Images `(N, C, H, W)` of any kind from 0 to 1, `(N, H, W)` or `(N, H, W, 3)`; a fourth channel is left out."""
    images: Array = np.nan_to_num(x[:, : 3 if x.shape[1] > 2 else 1].float().numpy(), posinf=0, neginf=0)
    low, high = min(0.0, float(images.min())), float(images.max())
    high = 255.0 if x.dtype == torch.uint8 and high > 16 else high
    images = np.moveaxis((images - low) / max(high - low, 1e-12), 1, 3)
    return images if images.shape[3] == 3 else images[..., 0]


def _features(predictions: Predictions) -> dict[str, list[str]]:
    """The first columns of the table that the samples are rows of."""
    columns = predictions.spec.columns[:8] if predictions.samples else ()
    found = {}
    for column, numbers in zip(columns, predictions.inputs(slice(None)).T.tolist() if columns else (), strict=False):
        levels = dict(enumerate(column.levels))
        found[column.name] = [
            levels.get(v, "?") if levels else "missing" if v != v else f"{v:.4g}" for v in numbers
        ]  # fmt: skip
    return found


def table(columns: Mapping[str, Sequence[str]], title: str) -> Figure:
    """Columns as lines of one text: that is laid out much faster than cells. A report shows the text itself."""
    text = as_text({label(key, 24): [label(cell, 24) for cell in cells] for key, cells in columns.items()})
    lines = text.splitlines()
    figure, (axis,) = panels(1, 0.07 * max(map(len, lines)), 0.145 * len(lines), left=0.2, bottom=0.1)
    axis.axis("off")
    titled(axis, label(title, 100), loc="left")
    axis.text(0, 1, text, transform=axis.transAxes, va="top", family="monospace", fontsize=8)
    figure.set_label(f"{title}\n\n{as_text(columns)}")
    figure.set_gid(TEXT)
    return figure


def as_text(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns side by side, a line for each row; numbers stand at the right."""
    number = re.compile(r"[-+]?[\d,.]+(e[-+]\d+)?( [kMGT])?|nan|-?inf|missing|")
    shown = []
    for key, cells in columns.items():
        cells = [" ".join(cell.split()) for cell in (key, *cells)]
        width, right = max(map(len, cells)), all(map(number.fullmatch, cells[1:]))
        shown.append([cell.rjust(width) if right else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*shown, strict=True))


# ---------------------------------------------------------------------------------------------------------------
# Values


def values(truth: Array, predicted: Array, names: Sequence[str], before: Array | None = None) -> Figure:
    """Predicted against true values, errors against predictions, and their distribution; a row for each output.

    Args:
        truth, predicted, before: `(N, outputs)`; the last is what the untrained net said.
        names: of the outputs, of which six are drawn.
    """
    from sklearn.metrics import mean_absolute_error, r2_score

    figure, axes = panels(3 * len(names[:OUTPUTS]), 3.4, 3.2, across=3)
    for output, name in enumerate(names[:OUTPUTS]):
        against, error, histogram = axes[3 * output : 3 * output + 3]
        given = [array[:, output].astype(float) for array in (truth, predicted, before) if array is not None]
        rows = np.isfinite(given).all(axis=0)
        if not rows.any():
            titled(against, f"{label(name)}: nothing finite")
            continue
        true, said, *past = (array[rows] for array in given)
        off = said - true
        dots = np.random.default_rng(0).permutation(len(true))[:DOTS]
        low, high = (float(find([find(array) for array in (true, said, *past)])) for find in (np.min, np.max))
        space = 0.05 * (high - low) or max(abs(high), 1.0)
        ends = (low - space, high + space)
        against.plot(ends, ends, ":", color=GREY)
        for array in past:
            against.vlines(true[dots], array[dots], said[dots], color="0.85", linewidth=0.8)
            against.scatter(true[dots], array[dots], s=14, facecolors="white", edgecolors=GREY, label="untrained")
        against.scatter(true[dots], said[dots], s=14, alpha=0.6, linewidths=0, color=BLUE, label="trained", zorder=2)
        against.set(xlim=ends, ylim=ends)
        if past:
            against.legend(fontsize=7)
        score = f"MAE {mean_absolute_error(true, said):.4g}"
        score += f", R² {r2_score(true, said):.3f}" if len(true) > 1 else ""
        score += f"; untrained: MAE {mean_absolute_error(true, past[0]):.4g}" if past else ""
        score += "" if rows.all() else f", {np.count_nonzero(~rows):,} not finite"
        titled(against, score, f"true {label(name, 40)}", "predicted")
        error.axhline(0, color=GREY, linestyle=":")
        error.scatter(said[dots], off[dots], s=14, alpha=0.6, linewidths=0, color=BLUE)
        for array in past:
            error.scatter(array[dots], (array - true)[dots], s=14, facecolors="white", edgecolors=GREY, zorder=0)
        tenths = np.array_split(np.argsort(said, kind="stable"), min(10, len(said)))
        error.plot([said[part].mean() for part in tenths], [off[part].mean() for part in tenths], color=ORANGE)
        titled(error, "Errors, and the mean of each tenth", "predicted", "predicted - true")
        # What lies beyond these is counted at the ends, so that one outlier does not squeeze all else into a bar.
        ends = np.percentile(np.concatenate([off, *(array - true for array in past)]), (0.5, 99.5))
        bins = np.histogram_bin_edges(off.clip(*ends), min(40, 5 + len(off) // 10), tuple(ends))
        for array in past:
            histogram.hist((array - true).clip(*ends), bins.tolist(), histtype="step", color=GREY)
        histogram.hist(off.clip(*ends), bins.tolist(), color=BLUE, alpha=0.8)
        histogram.axvline(0, color=GREY, linestyle=":")
        titled(histogram, f"Errors: mean {off.mean():.4g}, std {off.std():.4g}", "predicted - true", "samples")
    return figure
