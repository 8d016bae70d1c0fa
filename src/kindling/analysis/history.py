"""Training curves: a run's metrics.csv as a table, its plots, and a test for overfitting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from src.kindling.runs.metric_names import canonical_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def read_metrics(path: Path) -> pd.DataFrame:
    """Read a metrics.csv under canonical names; the column `at` is a row's position in epochs.

    Damaged lines are skipped; a missing file gives an empty table.
    """
    try:
        table = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace")
    except (FileNotFoundError, pd.errors.EmptyDataError, pd.errors.ParserError):
        return pd.DataFrame()
    table = table.apply(pd.to_numeric, errors="coerce").rename(columns=canonical_name)
    table = table.loc[:, ~table.columns.duplicated()]
    if not {"epoch", "step"} <= set(table):
        return pd.DataFrame()
    table = table.dropna(subset=["epoch", "step"])
    if len(table):
        ends = table.groupby("epoch")["step"].max()
        at = np.interp(table["step"], [-1, *ends], [ends.index[0], *(ends.index + 1)])
        table = table.assign(at=at)
    return table


def plot_curves(path: Path, monitor: str, mode: Literal["min", "max"]) -> Figure:
    """Plot losses, metrics and learning rates of a metrics.csv, with the best `monitor` marked."""
    from src.kindling.analysis import drawing

    table, monitor = read_metrics(path), canonical_name(monitor)
    names = {
        name.removeprefix("train/").removeprefix("val/").removeprefix("batch_") for name in table
    }
    names -= {"epoch", "step", "at"} | {name for name in names if name.startswith("test/")}
    order = sorted(names, key=lambda name: (name != "loss", name.startswith("lr"), name))
    if not order or not len(table):
        return drawing.draw_message("Curves: nothing was logged")
    best = None
    if monitor in table and table[monitor].notna().any():
        scores = table[monitor].replace([np.inf, -np.inf], np.nan)
        best = table["at"][scores.idxmin() if mode == "min" else scores.idxmax()]
    figure, axes = drawing.create_panels(len(order), 3.4, 2.0, across=3, head=0.3)
    for axis, name in zip(axes, order, strict=True):
        _draw_line(axis, table, f"train/batch_{name}", "0.85", "batch", marker="")
        _draw_line(axis, table, f"train/{name}", drawing.BLUE, "training")
        _draw_line(axis, table, f"val/{name}", drawing.ORANGE, "validation")
        _draw_line(axis, table, name, drawing.GREY, name)
        values = np.concatenate([np.ones(0), *(line.get_ydata() for line in axis.lines)])
        if name == "loss" and len(values) and values.max() > 30 * values.min() > 0:
            drawing.set_log_scale(axis)
        if best is not None:
            label = f"best: epoch {best:.4g}"
            axis.axvline(best, color="tab:green", linestyle="--", linewidth=1, label=label)
        axis.set_xlim(table["at"].min() - 0.1, table["at"].max() + 0.1)
        axis.locator_params(axis="x", integer=True)
        drawing.set_titles(axis, name, "epoch" if axis in axes[-3:] else "")
    if axes[0].lines:
        axes[0].legend(fontsize=7)
    figure.suptitle(describe_overfitting(path) or "", color="tab:red", fontsize=11)
    return figure


def compare_curves(runs: Mapping[str, Sequence[Path]], metrics: Iterable[str]) -> Figure | None:
    """Plot metrics over the epochs in one color for each row, a line for each of its runs.

    Args:
        runs: the directories of each row, by its name.
        metrics: canonical names; those that no run has are left out.
    """
    from src.kindling.analysis import drawing

    tables = {
        name: [read_metrics(path / "metrics.csv") for path in paths] for name, paths in runs.items()
    }
    known = {
        name
        for parts in tables.values()
        for table in parts
        for name in table.dropna(axis=1, how="all")
    }
    names = [name for name in metrics if name in known]
    if not names:
        return None
    head = 0.2 + 0.17 * len(runs)
    figure, axes = drawing.create_panels(len(names), 3.6, 2.4, across=len(names), head=head)
    for axis, metric in zip(axes, names, strict=True):
        for i, (row, parts) in enumerate(tables.items()):
            label = drawing.shorten_label(row, 60)
            for table in parts:
                _draw_line(axis, table, metric, f"C{i}", label)
        axis.locator_params(axis="x", integer=True)
        drawing.set_titles(axis, drawing.shorten_label(metric, 40), "epoch")
    lines = {str(line.get_label()): line for axis in axes for line in axis.lines}
    figure.legend([*lines.values()], [*lines], loc="upper left", fontsize=8, frameon=False)
    return figure


def _draw_line(
    axis: Axes, table: pd.DataFrame, column: str, color: str, label: str, marker: str = "."
) -> None:
    if column not in table:
        return
    finite = table[np.isfinite(table[column])]
    if len(finite):
        marker = marker if len(finite) < 30 else ""
        axis.plot(finite["at"], finite[column], color=color, marker=marker, label=label)


def describe_overfitting(path: Path) -> str | None:
    """Say from which epoch on the validation loss rose while the training loss fell, if it did.

    Both must be trends by Kendall's tau over at least six validations, and the rise must exceed
    the noise.
    """
    from scipy.stats import kendalltau

    table = read_metrics(path)
    if not {"train/loss", "val/loss"} <= set(table):
        return None
    losses: Any = table[["train/loss", "val/loss", "at"]].replace([np.inf, -np.inf], np.nan)
    train, val, at = losses.dropna().to_numpy().T
    if len(val) < 6:
        return None
    window = 2 * (len(val) // 20 + 1) + 1
    smooth = pd.Series(val).rolling(window, center=True, min_periods=1).median().to_numpy()
    lowest = int(smooth.argmin())
    since = val[lowest:]
    if len(since) < 6:
        return None
    noise = float(np.median(np.abs(np.diff(val))))
    rise = float(np.median(since[-(len(since) // 4 + 1) :]) - smooth[lowest])
    up, down = (kendalltau(range(len(since)), values) for values in (since, train[lowest:]))
    trends = up.statistic > 0 > down.statistic and up.pvalue < 0.01 and down.pvalue < 0.05
    if not trends or rise < max(2 * noise, 0.02 * abs(smooth[lowest])):
        return None
    return f"validation loss rose from epoch {at[lowest] + 1:.0f} on, while training loss fell"
