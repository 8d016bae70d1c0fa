"""One or several numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis import sample_plots, value_plots
from src.kindling.analysis.outputs.base import Outputs
from src.kindling.analysis.predictions import Predictions
from src.kindling.data.spec import Spec, TargetType


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
            text = f"{name}: mean {mean:.4g}, std {std:.4g}"
            if target is not None:
                text += f", {target[:, i].min():.4g} to {target[:, i].max():.4g}"
            rows.append(("target", text))
        return rows

    def format(self, target: Tensor) -> str:
        return ", ".join(f"{value:.4g}" for value in target.tolist())

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
        past = None if before is None else before["prediction"]
        true, predicted = predictions["target"], predictions["prediction"]
        return value_plots.plot_values(true, predicted, self.names, past)

    def plot_targets(self, targets: Mapping[str, Tensor]) -> Figure:
        arrays = {stage: target.numpy() for stage, target in targets.items()}
        return value_plots.plot_distributions(arrays, self.names)
