"""One or several numbers, and plots of predicted values against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import mean_absolute_error, r2_score
from torch import Tensor

from src.kindling.analysis import drawing, sample_plots
from src.kindling.analysis.drawing import BLUE, GREY, ORANGE
from src.kindling.analysis.outputs.base import Outputs
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.config.errors import format_float
from src.kindling.data.spec import Spec, TargetType

OUTPUTS = 6  # with plots
DOTS = 3_000  # rows of a scatter plot, drawn at random
STYLES: dict[str, dict[str, Any]] = {
    "trained": {"s": 14, "alpha": 0.6, "linewidths": 0, "color": BLUE, "zorder": 2},
    "untrained": {"s": 14, "facecolors": "white", "edgecolors": GREY},
}


class Values(Outputs):
    """Values `(B, K)` in the unit of the target, without a decision rule.

    Args:
        names: of the K values.
        mean, std: of each in the training split.
    """

    target_type: ClassVar[TargetType] = "values"
    fields: ClassVar[tuple[str, ...]] = ("names", "target_mean", "target_std")
    column: ClassVar[str] = "prediction"
    answer_name: ClassVar[str] = "value"
    score_name: ClassVar[str] = "mae"
    decision: ClassVar[dict[str, Any]] = {"kind": "none"}

    def __init__(
        self, names: Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        self.names = tuple(names)
        self.mean = tuple(mean) or (0.0,) * len(self.names)
        self.std = tuple(std) or (1.0,) * len(self.names)
        self.shape = (len(self.names),)

    def predict_proba(self, raw: Tensor) -> Tensor:
        return raw

    def decode(self, probability: Tensor) -> Tensor:
        return probability

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        return {"prediction": raw}

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compute the absolute error, the mean over the values of a sample, `(B,)`."""
        return (outputs - target).abs().mean(dim=1)

    def baseline(self) -> Tensor:
        """Return the mean of each value in training, `(K,)`."""
        return torch.tensor(self.mean, dtype=torch.float64)

    def describe(self, spec: Spec, target: Tensor | None = None) -> list[tuple[str, str]]:
        rows = []
        for i, (name, mean, std) in enumerate(zip(self.names, self.mean, self.std, strict=True)):
            text = f"{name}: mean {format_float(mean)}, std {format_float(std)}"
            if target is not None:
                low, high = target[:, i].min().item(), target[:, i].max().item()
                text += f", {format_float(low)} to {format_float(high)}"
            rows.append(("target", text))
        return rows

    def format(self, target: Tensor) -> str:
        return ", ".join(map(format_float, target.tolist()))

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """Return a column for each value."""
        one = len(self.names) == 1
        names = ["prediction"] if one else [f"prediction_{name}" for name in self.names]
        return {name: columns["prediction"][:, i].numpy() for i, name in enumerate(names)}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        error = np.abs(predictions["prediction"] - predictions["target"])
        error = (error / np.array(self.std, np.float32)).max(axis=1)
        worst = predictions.take(np.argsort(-error, kind="stable")[: self.gallery])
        worst.columns["error"] = worst["prediction"] - worst["target"]
        columns = {"true": "target", "predicted": "prediction", "error": "error"}
        captions = {heading: self.captions(worst, name) for heading, name in columns.items()}
        title = f"Largest errors ({', '.join(self.names)})"
        return {
            "errors": self.plot_examples(predictions),
            "worst": sample_plots.plot_samples(worst, title, captions),
        }

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Plot predicted against true values, residuals, and their distribution.

        Each output has a row, of the first six. `before` are the untrained net's predictions.
        """
        names = self.names[:OUTPUTS]
        figure, axes = drawing.create_panels(3 * len(names), 4.1, 3.9, across=3)
        arrays = {"true": predictions["target"], "trained": predictions["prediction"]}
        if before is not None:
            arrays["untrained"] = before["prediction"]
        for output, name in enumerate(names):
            values = {label: array[:, output].astype(float) for label, array in arrays.items()}
            _plot_output(axes[3 * output : 3 * output + 3], values, drawing.shorten_label(name, 40))
        return figure

    def plot_targets(self, targets: Mapping[str, Tensor]) -> Figure:
        """Plot the distribution of each target in each split, `(N, K)`."""
        figure, axes = drawing.create_panels(len(self.names), 7.0, 3.2)
        for output, (axis, name) in enumerate(zip(axes, self.names, strict=True)):
            columns = {stage: target[:, output].numpy() for stage, target in targets.items()}
            bins = np.histogram_bin_edges(np.concatenate(list(columns.values())), 30).tolist()
            for stage, column in columns.items():
                axis.hist(column, bins, density=True, histtype="step", linewidth=2, label=stage)
            axis.legend(fontsize=8)
            drawing.set_titles(axis, "Target", drawing.shorten_label(name, 60), "density")
        return figure


def _plot_output(axes: Sequence[Axes], values: Mapping[str, Array], name: str) -> None:
    scatter, residuals, histogram = axes
    for axis in axes:
        axis.locator_params("x", nbins=6, min_n_ticks=3)  # prices have labels of six digits
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
    score = f"MAE {format_float(mean_absolute_error(true, now))}"
    if len(true) > 1:
        score += f", R² {r2_score(true, now):.3f}"
    if "untrained" in predicted:
        scatter.legend(fontsize=7)
        score += f"; untrained: MAE {format_float(np.abs(errors['untrained']).mean())}"
    if not finite.all():
        score += f", {np.count_nonzero(~finite):,} not finite"
    drawing.set_titles(scatter, score, f"true {name}", "predicted")
    title = "Errors, and the mean of each tenth"
    drawing.set_titles(residuals, title, "predicted", "predicted - true")
    title = f"Errors: mean {format_float(error.mean())}, std {format_float(error.std())}"
    drawing.set_titles(histogram, title, "predicted - true", "samples")
