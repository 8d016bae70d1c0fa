"""How a training went: its curves over the epochs, and in words whether it fitted the training samples too closely.

Read from a run's metrics.csv alone.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from src.kindling.analysis.figures import BLUE, GREY, ORANGE, logarithmic, message, panels, titled
from src.kindling.analysis.predictions import Array


def read_metrics(path: Path) -> dict[str, Array]:
    """The columns of a run's metrics.csv, NaN where a row has no value, and `at`: each row's place in epochs."""
    if not path.exists():  # a run that logs nothing
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = [*csv.reader(file)] or [[]]
    columns = {name: np.array([float(row[i] or "nan") for row in rows]) for i, name in enumerate(names)}
    if rows:
        epochs = np.unique(columns["epoch"])
        ends = [columns["step"][columns["epoch"] == epoch].max() for epoch in epochs]
        columns["at"] = np.interp(columns["step"], [-1, *ends], [epochs[0], *epochs + 1])
    return columns


def curves(path: Path, monitor: str, mode: Literal["min", "max"]) -> Figure:
    """The loss, the metrics and the learning rate of a metrics.csv over the epochs; the best of `monitor` is marked."""
    columns = read_metrics(path)
    found = {name.partition("/")[2] for name in columns if name.startswith(("train/", "val/"))} - {"batch_loss"}
    names = sorted(found, key=lambda name: (name != "loss", name)) + ["lr"] * ("lr" in columns)
    if not names:
        return message("Curves: nothing was logged")
    there = {name: np.flatnonzero(np.isfinite(numbers)) for name, numbers in columns.items()}
    best = None
    if len(rows := there.get(monitor, ())):
        scores = columns[monitor][rows]
        best = columns["at"][rows[scores.argmin() if mode == "min" else scores.argmax()]]
    figure, axes = panels(len(names), 3.4, 2.0, across=3, head=0.3)
    for axis, name in zip(axes, names, strict=True):
        for column, color, told in ((f"train/batch_{name}", "0.85", "batch"), (f"train/{name}", BLUE, "training"),
                                    (f"val/{name}", ORANGE, "validation"), (name, GREY, name)):  # fmt: skip
            if len(rows := there.get(column, ())):
                marker = "." if len(rows) < 30 and told != "batch" else ""
                axis.plot(columns["at"][rows], columns[column][rows], color=color, marker=marker, label=told)
        drawn = np.concatenate([np.ones(0), *(line.get_ydata() for line in axis.lines)])
        if name == "loss" and len(drawn) and drawn.max() > 30 * drawn.min() > 0:
            logarithmic(axis)
        if best is not None:
            axis.axvline(best, color="tab:green", linestyle="--", linewidth=1, label=f"best: epoch {best:.4g}")
        axis.set_xlim(columns["at"].min() - 0.1, columns["at"].max() + 0.1)
        axis.locator_params(axis="x", integer=True)
        titled(axis, name, "epoch" if axis in axes[-3:] else "")
    if axes[0].lines:
        axes[0].legend(fontsize=7)
    figure.suptitle(overfitting(path) or "", color="tab:red", fontsize=11)
    return figure


def overfitting(path: Path) -> str | None:
    """In words, from which epoch on the validation loss of a metrics.csv rose while the training loss fell, if it did.

    Both have to be trends that noise does not make (Kendall's tau, over six or more validations), and the rise has to
    exceed the noise.
    """
    from scipy.stats import kendalltau

    columns = read_metrics(path)
    if not {"train/loss", "val/loss"} <= set(columns):
        return None
    rows = np.isfinite(columns["train/loss"]) & np.isfinite(columns["val/loss"])
    train, val, at = columns["train/loss"][rows], columns["val/loss"][rows], columns["at"][rows]
    reach = len(val) // 20 + 1
    smooth = np.array([np.median(val[max(0, i - reach) : i + reach + 1]) for i in range(len(val))])
    lowest = int(smooth.argmin()) if len(val) else 0
    since = val[lowest:]
    if len(since) < 6:
        return None
    noise = float(np.median(np.abs(np.diff(val))))
    rise = float(np.median(since[-(len(since) // 4 + 1) :]) - smooth[lowest])
    up, down = (kendalltau(range(len(since)), losses) for losses in (since, train[lowest:]))
    trends = up.statistic > 0 > down.statistic and up.pvalue < 0.01 and down.pvalue < 0.05
    if not trends or rise < max(2 * noise, 0.02 * abs(smooth[lowest])):
        return None
    return f"validation loss rose from epoch {at[lowest] + 1:.0f} on, while training loss fell"
