"""Plots of tables: the distribution of columns and targets, missing values, correlations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis.drawing import BLUE, create_panels, set_titles, shorten_label
from src.kindling.analysis.predictions import spread
from src.kindling.data.data_module import DataModule
from src.kindling.data.statistics import COUNTED_MASKS

COLUMNS, CLASSES = 24, 40  # of one plot
SAMPLED = 20_000  # rows of a distribution


def plot_columns(data: DataModule) -> dict[str, Figure]:
    """Plot each column's distribution, the missing values, and the strongest correlations."""
    index = data.indices["train"]
    table = _to_frame(data, index[spread(len(index), SAMPLED)])
    count, figures = table.shape[1], dict[str, Figure]()
    for start in range(0, count, COLUMNS):
        page = table.iloc[:, start : start + COLUMNS]
        part = f" ({start + 1} to {start + page.shape[1]} of {count})" if count > COLUMNS else ""
        name = f"columns_{start // COLUMNS + 1}" if start else "columns"
        figures[name] = _plot_distributions(page, f"Columns in training{part}")
    missing = 100 * count_missing(data) / max(len(index), 1)
    missing = missing[missing > 0].sort_values(ascending=False, kind="stable")
    if len(missing):
        figures["missing"] = _plot_bars(dict(missing), "Missing values in training", "%")
    if pairs := correlate(data):
        title = "Most correlated columns in training"
        bars = {f"{one[:24]} / {other[:24]}": value for one, other, value in pairs}
        figures["correlations"] = _plot_bars(bars, title, "Pearson correlation")
        figures["correlations"].axes[0].set_xlim(-1, 1)
    return figures


def _plot_distributions(table: pd.DataFrame, title: str) -> Figure:
    figure, axes = create_panels(table.shape[1], 2.3, 1.7, across=4, left=1.0, head=0.3)
    for axis, name in zip(axes, table, strict=True):
        values = table[name].dropna()
        if values.dtype == "category":
            counts = values.value_counts()[:10][::-1]
            labels = [shorten_label(str(level), 14) for level in counts.index]
            axis.barh(range(len(counts)), counts, color=BLUE)
            axis.set_yticks(range(len(counts)), labels, fontsize=7)
        else:
            axis.hist(values, bins=2 if values.isin((0, 1)).all() else 30, color=BLUE)
        set_titles(axis, shorten_label(name, 32))
    figure.suptitle(title, fontsize=10)
    return figure


def _plot_bars(bars: Mapping[str, float], title: str, unit: str) -> Figure:
    figure, (axis,) = create_panels(1, 5.0, 0.3 + 0.25 * len(bars), left=3.4)
    values = [*bars.values()]
    colors = [BLUE if value > 0 else "tab:red" for value in values]
    axis.barh(range(len(bars)), values, color=colors)
    axis.set_yticks(range(len(bars)), [shorten_label(name, 52) for name in bars])
    axis.invert_yaxis()
    set_titles(axis, title, unit)
    return figure


def count_missing(data: DataModule) -> pd.Series:
    """Count the training rows that lack each column, over all rows, a part at a time."""
    parts = data.indices["train"].split(SAMPLED)  # type: ignore[no-untyped-call]
    names = [column.name for column in data.spec.columns]
    counts = [_to_frame(data, part).isna().sum().to_numpy() for part in parts]
    return pd.Series(np.sum(counts, axis=0) if counts else 0, index=names)


def correlate(data: DataModule, most: int = 15) -> list[tuple[str, str, float]]:
    """Find the strongest Pearson correlations of numeric columns and targets in training."""
    index = data.indices["train"]
    rows = index[spread(len(index), SAMPLED)]
    table = _to_frame(data, rows).select_dtypes("number")
    values, names = table.fillna(table.mean()).to_numpy(), list(table)
    if not data.spec.classes:
        values = np.concatenate([values, data.samples.y[rows].double().numpy()], axis=1)
        names += data.spec.names
    if len(names) < 2:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant column
        matrix = np.nan_to_num(np.corrcoef(values, rowvar=False))
    one, other = np.triu_indices(len(names), 1)
    strongest = np.argsort(-np.abs(matrix[one, other]), kind="stable")[:most]
    pairs = zip(one[strongest], other[strongest], strict=True)
    return [(names[i], names[j], float(matrix[i, j])) for i, j in pairs]


def plot_target(data: DataModule) -> Figure:
    """Plot the classes, or the distribution of the target's values, in each split."""
    spec, y = data.spec, data.samples.y
    if spec.classes:
        return _plot_classes(data)
    figure, axes = create_panels(spec.num_outputs, 6.0, 2.4)
    values = y[torch.arange(len(y))].numpy()
    for output, (axis, name) in enumerate(zip(axes, spec.names, strict=True)):
        bins = np.histogram_bin_edges(values[:, output], bins=30).tolist()
        for stage, index in data.indices.items():
            if len(index):
                split = values[index, output]
                axis.hist(split, bins, density=True, histtype="step", linewidth=2, label=stage)
        axis.legend(fontsize=8)
        set_titles(axis, "Target", shorten_label(name, 60), "density")
    return figure


def _plot_classes(data: DataModule) -> Figure:
    spec = data.spec
    largest = np.argsort(spec.class_counts)[::-1][:CLASSES]
    unit = "pixels" if spec.target_type == "mask" else "samples"
    figure, (axis,) = create_panels(1, 5.0, 0.5 + 0.25 * len(largest), left=2.2, right=0.9)
    left = np.zeros(len(largest))
    for stage, index in data.indices.items():
        rows = index[spread(len(index), COUNTED_MASKS)] if unit == "pixels" else index
        y = data.samples.y[rows]
        counts = (
            y.sum(dim=0) if spec.target_type == "labels" else torch.bincount(y.flatten(), None, 256)
        )
        axis.barh(range(len(largest)), counts.numpy()[largest], left=left, label=stage)
        left += counts.numpy()[largest]
    axis.set_yticks(range(len(largest)), [shorten_label(spec.classes[i], 30) for i in largest])
    axis.invert_yaxis()
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    count = len(spec.classes)
    title = "Classes" if count <= CLASSES else f"The {CLASSES} largest of {count} classes"
    set_titles(axis, title, unit)
    return figure


def _to_frame(data: DataModule, rows: Tensor) -> pd.DataFrame:
    """Read raw rows as columns of numbers and categories; a missing value is NaN."""
    columns = {}
    for column, values in zip(data.spec.columns, data.samples.x[rows].T.numpy(), strict=True):
        if column.kind == "category":
            codes = values.astype(np.int64)
            columns[column.name] = pd.Categorical.from_codes(codes, list(column.categories))
        else:
            columns[column.name] = values.astype(np.float64)
    return pd.DataFrame(columns)
