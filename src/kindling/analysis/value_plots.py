"""Plots of predicted values against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import mean_absolute_error, r2_score

from src.kindling.analysis.drawing import (
    BLUE,
    GREY,
    ORANGE,
    create_panels,
    set_titles,
    shorten_label,
)
from src.kindling.analysis.predictions import Array

OUTPUTS = 6
DOTS = 3_000  # rows of a scatter plot, drawn at random
FILLED: dict[str, Any] = {"s": 14, "alpha": 0.6, "linewidths": 0, "color": BLUE}
HOLLOW: dict[str, Any] = {"s": 14, "facecolors": "white", "edgecolors": GREY}


def plot_values(
    truth: Array, predicted: Array, names: Sequence[str], before: Array | None = None
) -> Figure:
    """Plot predicted against true values, residuals, and their distribution, a row for each output.

    Args:
        truth, predicted, before: `(N, outputs)`; the last are the untrained net's predictions.
        names: of the outputs, of which the first six are drawn.
    """
    figure, axes = create_panels(3 * len(names[:OUTPUTS]), 3.4, 3.2, across=3)
    for output, name in enumerate(names[:OUTPUTS]):
        scatter, residuals, histogram = axes[3 * output : 3 * output + 3]
        arrays = [truth, predicted] + ([] if before is None else [before])
        values = [array[:, output].astype(float) for array in arrays]
        rows = np.isfinite(values).all(axis=0)
        if not rows.any():
            set_titles(scatter, f"{shorten_label(name)}: nothing finite")
            continue
        true, now, *past = (array[rows] for array in values)
        dropped = np.count_nonzero(~rows)
        note = f", {dropped:,} not finite" if dropped else ""
        _draw_scatter(scatter, true, now, past, shorten_label(name, 40), note)
        _draw_residuals(residuals, true, now, past)
        _draw_histogram(histogram, true, now, past)
    return figure


def _draw_scatter(
    axis: Axes, true: Array, now: Array, past: Sequence[Array], name: str, note: str
) -> None:
    dots = _sample_rows(true)
    low, high = np.min([true, now, *past]), np.max([true, now, *past])
    margin = 0.05 * (high - low) or max(abs(high), 1.0)
    limits = (low - margin, high + margin)
    axis.plot(limits, limits, ":", color=GREY)
    score = f"MAE {mean_absolute_error(true, now):.4g}"
    if len(true) > 1:
        score += f", R² {r2_score(true, now):.3f}"
    for array in past:
        axis.vlines(true[dots], array[dots], now[dots], color="0.85", linewidth=0.8)
        axis.scatter(true[dots], array[dots], label="untrained", **HOLLOW)
        score += f"; untrained: MAE {mean_absolute_error(true, array):.4g}"
    axis.scatter(true[dots], now[dots], label="trained", zorder=2, **FILLED)
    axis.set(xlim=limits, ylim=limits)
    if past:
        axis.legend(fontsize=7)
    set_titles(axis, score + note, f"true {name}", "predicted")


def _draw_residuals(axis: Axes, true: Array, now: Array, past: Sequence[Array]) -> None:
    dots = _sample_rows(true)
    axis.axhline(0, color=GREY, linestyle=":")
    axis.scatter(now[dots], (now - true)[dots], **FILLED)
    for array in past:
        axis.scatter(array[dots], (array - true)[dots], zorder=0, **HOLLOW)
    tenths = np.array_split(np.argsort(now, kind="stable"), min(10, len(now)))
    means = np.array([(now[part].mean(), (now - true)[part].mean()) for part in tenths])
    axis.plot(*means.T, color=ORANGE)
    set_titles(axis, "Errors, and the mean of each tenth", "predicted", "predicted - true")


def _draw_histogram(axis: Axes, true: Array, now: Array, past: Sequence[Array]) -> None:
    # Errors beyond these limits count in the outer bins: an outlier must not squeeze the others.
    errors = [array - true for array in (now, *past)]
    limits = np.percentile(np.concatenate(errors), (0.5, 99.5))
    current, *earlier = (error.clip(*limits) for error in errors)
    bins = np.histogram_bin_edges(current, min(40, 5 + len(now) // 10), tuple(limits)).tolist()
    for error in earlier:
        axis.hist(error, bins, histtype="step", color=GREY)
    axis.hist(current, bins, color=BLUE, alpha=0.8)
    axis.axvline(0, color=GREY, linestyle=":")
    title = f"Errors: mean {errors[0].mean():.4g}, std {errors[0].std():.4g}"
    set_titles(axis, title, "predicted - true", "samples")


def _sample_rows(values: Array) -> Array:
    return np.random.default_rng(0).permutation(len(values))[:DOTS]
