"""Plots of predicted values against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import mean_absolute_error, r2_score

from src.kindling.analysis import drawing
from src.kindling.analysis.drawing import BLUE, GREY, ORANGE
from src.kindling.analysis.predictions import Array

OUTPUTS = 6
DOTS = 3_000  # rows of a scatter plot, drawn at random
STYLES: dict[str, dict[str, Any]] = {
    "trained": {"s": 14, "alpha": 0.6, "linewidths": 0, "color": BLUE, "zorder": 2},
    "untrained": {"s": 14, "facecolors": "white", "edgecolors": GREY},
}


def plot_values(
    truth: Array, predicted: Array, names: Sequence[str], before: Array | None = None
) -> Figure:
    """Plot predicted against true values, residuals, and their distribution, a row for each output.

    Args:
        truth, predicted, before: `(N, outputs)`; the last are the untrained net's predictions.
        names: of the outputs, of which the first six are drawn.
    """
    figure, axes = drawing.create_panels(3 * len(names[:OUTPUTS]), 4.1, 3.9, across=3)
    arrays = {"true": truth, "trained": predicted}
    if before is not None:
        arrays["untrained"] = before
    for output, name in enumerate(names[:OUTPUTS]):
        values = {label: array[:, output].astype(float) for label, array in arrays.items()}
        _plot_output(axes[3 * output : 3 * output + 3], values, drawing.shorten_label(name, 40))
    return figure


def _plot_output(axes: Sequence[Axes], values: Mapping[str, Array], name: str) -> None:
    scatter, residuals, histogram = axes
    finite = np.isfinite(list(values.values())).all(axis=0)
    if not finite.any():
        drawing.set_titles(scatter, f"{name}: nothing finite")
        return
    predicted = {label: array[finite] for label, array in values.items()}
    true = predicted.pop("true")
    errors = {label: array - true for label, array in predicted.items()}
    # Errors beyond these limits count in the outer bins: an outlier must not squeeze the others.
    low, high = np.percentile(np.concatenate(list(errors.values())), (0.5, 99.5))
    bins = np.histogram_bin_edges([low, high], min(40, 5 + len(true) // 10)).tolist()
    rows = np.random.default_rng(0).permutation(len(true))[:DOTS]
    for label, array in predicted.items():
        scatter.scatter(true[rows], array[rows], label=label, **STYLES[label])
        residuals.scatter(array[rows], errors[label][rows], **STYLES[label])
        style: dict[str, Any] = {"color": BLUE, "alpha": 0.8}
        if label == "untrained":
            style = {"color": GREY, "histtype": "step"}
        histogram.hist(errors[label].clip(low, high), bins, **style)
    every = np.concatenate([true, *predicted.values()])
    ends = [every.min(), every.max()]
    scatter.plot(ends, ends, ":", color=GREY)
    residuals.axhline(0, linestyle=":", color=GREY)
    histogram.axvline(0, linestyle=":", color=GREY)
    now, error = predicted["trained"], errors["trained"]
    tenths = np.array_split(np.argsort(now, kind="stable"), min(10, len(now)))
    means = [(now[part].mean(), error[part].mean()) for part in tenths]
    residuals.plot(*np.transpose(means), color=ORANGE)
    score = f"MAE {mean_absolute_error(true, now):.4g}"
    if len(true) > 1:
        score += f", R² {r2_score(true, now):.3f}"
    if "untrained" in predicted:
        scatter.legend(fontsize=7)
        score += f"; untrained: MAE {np.abs(errors['untrained']).mean():.4g}"
    if not finite.all():
        score += f", {np.count_nonzero(~finite):,} not finite"
    drawing.set_titles(scatter, score, f"true {name}", "predicted")
    title = "Errors, and the mean of each tenth"
    drawing.set_titles(residuals, title, "predicted", "predicted - true")
    title = f"Errors: mean {error.mean():.4g}, std {error.std():.4g}"
    drawing.set_titles(histogram, title, "predicted - true", "samples")


def plot_distributions(values: Mapping[str, Array], names: Sequence[str]) -> Figure:
    """Plot the distribution of each target in each split, values `(N, outputs)`."""
    figure, axes = drawing.create_panels(len(names), 7.0, 3.2)
    for output, (axis, name) in enumerate(zip(axes, names, strict=True)):
        columns = {stage: split[:, output] for stage, split in values.items()}
        bins = np.histogram_bin_edges(np.concatenate(list(columns.values())), 30).tolist()
        for stage, column in columns.items():
            axis.hist(column, bins, density=True, histtype="step", linewidth=2, label=stage)
        axis.legend(fontsize=8)
        drawing.set_titles(axis, "Target", drawing.shorten_label(name, 60), "density")
    return figure
