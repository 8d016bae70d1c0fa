"""Training curves: a run's logged values as a table, its plots, and a test for overfitting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from src.kindling.analysis import drawing
from src.kindling.runs.metric_names import canonical_name, parse_name

MOST_COLUMNS = 1000  # of a file from elsewhere, 200,000 take a minute


def read_metrics(run: Path) -> pd.DataFrame:
    """Read a run's steps.csv under canonical names; the column `at` is a row's position in epochs.

    Damaged lines are skipped, and infinite values are NaN; a missing file gives an empty table.
    """
    path = run / "steps.csv"
    if not path.exists():  # an earlier version wrote all steps to metrics.csv
        path = run / "metrics.csv"
    try:
        table = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace")
    except (FileNotFoundError, pd.errors.EmptyDataError, pd.errors.ParserError):
        return pd.DataFrame()
    table = table.reset_index(drop=True).iloc[:, :MOST_COLUMNS]  # a long line makes an index
    table = table.apply(pd.to_numeric, errors="coerce").rename(columns=canonical_name)
    table = table.loc[:, ~table.columns.duplicated()].replace([np.inf, -np.inf], np.nan)
    if not {"epoch", "step"} <= set(table):
        return pd.DataFrame()
    table = table.dropna(subset=["epoch", "step"])
    if not len(table):
        return pd.DataFrame()
    if table["epoch"].min() == 0:  # of an earlier version, which counted from 0
        table["epoch"] += 1
    ends = table.groupby("epoch")["step"].max()
    at = np.interp(table["step"], [-1, *ends], [ends.index[0] - 1, *ends.index])
    return table.assign(at=at)


def find_best(table: pd.DataFrame, monitor: str, mode: str | None) -> Any:
    """Find the row with the best value of a metric, a Series; None if it was never logged."""
    if monitor not in table or not table[monitor].notna().any():
        return None
    scores = table[monitor]
    return table.loc[scores.idxmin() if mode == "min" else scores.idxmax()]


def plot_curves(run: Path, monitor: str, mode: Literal["min", "max"]) -> Figure:
    """Plot a run's losses, metrics and learning rates, with the best `monitor` marked."""
    table, monitor = read_metrics(run), canonical_name(monitor)
    logged = [name for name in table if name not in ("epoch", "step", "at")]
    names = {
        metric.removeprefix("batch_")
        for stage, metric in map(parse_name, logged)
        if stage != "test"
    }
    order = sorted(names, key=lambda name: (name != "loss", name.startswith("lr"), name))
    if not order or not len(table):
        return drawing.draw_message("Curves: nothing was logged")
    best = find_best(table, monitor, mode)
    figure, axes = drawing.create_panels(len(order), 4.2, 2.7, across=3, head=0.3)
    for axis, name in zip(axes, order, strict=True):
        _draw_line(axis, table, f"train/batch_{name}", "0.85", "batch", marker="")
        _draw_line(axis, table, f"train/{name}", drawing.BLUE, "training")
        _draw_line(axis, table, f"val/{name}", drawing.ORANGE, "validation")
        _draw_line(axis, table, name, drawing.GREY, name)
        values = np.concatenate([np.ones(0), *(line.get_ydata() for line in axis.lines)])
        if name == "loss" and len(values) and values.max() > 30 * values.min() > 0:
            axis.set_yscale("log")
        if best is not None:
            label = f"best: epoch {best['at']:.4g}"
            axis.axvline(best["at"], color="tab:green", linestyle="--", linewidth=1, label=label)
        axis.set_xlim(table["at"].min() - 0.1, table["at"].max() + 0.1)
        axis.locator_params(axis="x", integer=True)
        drawing.set_titles(axis, name, "epoch" if axis in axes[-3:] else "")
    if axes[0].lines:
        axes[0].legend(fontsize=7)
    figure.suptitle(describe_overfitting(table) or "", color="tab:red", fontsize=11)
    return figure


def compare_curves(runs: Mapping[str, Sequence[Path]], metrics: Iterable[str]) -> Figure | None:
    """Plot those metrics that were logged: a color for each row, a line for each of its runs."""
    tables = {
        name: [read_metrics(path).dropna(axis=1, how="all") for path in paths]
        for name, paths in runs.items()
    }
    known = {name for parts in tables.values() for table in parts for name in table}
    names = [name for name in metrics if name in known]
    if not names:
        return None
    figure, axes = drawing.create_panels(len(names), 4.4, 3.2, len(names), head=0.17 * len(runs))
    for axis, metric in zip(axes, names, strict=True):
        for i, (row, parts) in enumerate(tables.items()):
            for table in parts:
                _draw_line(axis, table, metric, f"C{i}", drawing.shorten_label(row, 60))
        axis.locator_params(axis="x", integer=True)
        drawing.set_titles(axis, drawing.shorten_label(metric, 40), "epoch")
    lines = {str(line.get_label()): line for axis in axes for line in axis.lines}
    figure.legend([*lines.values()], [*lines], loc="outside upper left", fontsize=8, frameon=False)
    return figure


def _draw_line(
    axis: Axes, table: pd.DataFrame, column: str, color: str, label: str, marker: str = "."
) -> None:
    if column in table and len(known := table.dropna(subset=[column])):
        marker = marker if len(known) < 30 else ""
        axis.plot(known["at"], known[column], color=color, marker=marker, label=label)


def describe_overfitting(table: pd.DataFrame) -> str | None:
    """Describe from which epoch on the validation loss rose while the training loss fell, if so.

    Both must be trends by Kendall's tau over at least six validations; the rise exceeds the noise.
    """
    if not {"train/loss", "val/loss"} <= set(table):
        return None
    losses = table[["train/loss", "val/loss", "at"]].dropna()
    window = 2 * (len(losses) // 20 + 1) + 1
    smooth = losses["val/loss"].rolling(window, center=True, min_periods=1).median().to_numpy()
    lowest = int(smooth.argmin()) if len(smooth) else 0
    train, val, at = losses.to_numpy()[lowest:].T
    if len(val) < 6:
        return None
    noise = float(losses["val/loss"].diff().abs().median())
    rise = float(np.median(val[-(len(val) // 4 + 1) :]) - smooth[lowest])
    up, down = kendalltau(range(len(val)), val), kendalltau(range(len(val)), train)
    trends = up.statistic > 0 > down.statistic and up.pvalue < 0.01 and down.pvalue < 0.05
    if not trends or rise < max(2 * noise, 0.02 * abs(smooth[lowest])):
        return None
    return f"validation loss rose from epoch {at[0] + 1:.0f} on, while training loss fell"
