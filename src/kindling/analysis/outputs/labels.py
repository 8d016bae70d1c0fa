"""Any number of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from src.kindling.analysis.outputs.base import check_target, list_labels
from src.kindling.analysis.predictions import Predictions, spread
from src.kindling.data.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.5  # above it, as in torchmetrics


class Labels:
    """Logits `(B, K)` to labels: those whose probability is above 0.5.

    Args:
        names: of the K labels.
        shares: the share of training samples that have each; 0.5 where they are not known.
    """

    column: ClassVar[str] = "probability"
    answer_name: ClassVar[str] = "probability"
    score_name: ClassVar[str] = "exact_match"
    decision: ClassVar[dict[str, Any]] = {"kind": "threshold", "value": THRESHOLD}

    def __init__(self, names: Sequence[str], shares: Sequence[float] = ()) -> None:
        self.names = tuple(names)
        self.shares = tuple(shares) or (0.5,) * len(self.names)
        self.shape: tuple[int, ...] = (len(self.names),)

    @classmethod
    def of(cls, spec: Spec) -> Labels:
        """Outputs for the target of the data.

        Raises:
            InputError: when the data has another kind of target.
        """
        check_target(spec, "labels")
        return cls(spec.classes, spec.target_mean)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Logits `(B, K)` to probabilities in float32.

        Saturated ones are equal, 1.0, and AUROC takes them for ties.
        """
        return raw.float().sigmoid()

    def decode(self, probability: Tensor) -> Tensor:
        """Labels, 0 or 1, `(B, K)`."""
        return (probability > THRESHOLD).long()

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """`prediction`, 0 or 1, and `probability`, each `(B, K)`."""
        probability = self.predict_proba(raw)
        return {"prediction": self.decode(probability), "probability": probability}

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether all labels of a sample are right, 0 or 1, `(B,)`."""
        return (self.decode(outputs) == target).all(dim=1).float()

    def baseline(self) -> Tensor:
        """The share of training samples that have each label, `(K,)`."""
        return torch.tensor(self.shares)

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """The labels in one column, `a;b`, and all probabilities."""
        probability = columns["probability"]
        table: dict[str, Any] = {
            "prediction": list_labels(columns["prediction"].numpy(), self.names)
        }
        for i, name in enumerate(self.names):
            table[f"probability_{name}"] = probability[:, i].numpy()
        return table

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        from src.kindling.analysis import class_plots, drawing

        if not len(predictions):
            return {}
        target, probability = predictions["target"], predictions["probability"]
        wrong = (predictions["prediction"] != target).any(axis=1)
        error = np.abs(probability - target).max(axis=1)
        worst = np.argsort(-error, kind="stable")[: drawing.SAMPLES]
        mistakes = predictions.take(worst[wrong[worst]])
        meaning = "probability of a label"
        return {
            "classes": class_plots.plot_class_scores(target, predictions["prediction"], self.names),
            "roc_and_pr": class_plots.plot_roc_and_pr(target, probability, self.names),
            "calibration": class_plots.plot_calibration(
                probability.ravel(), target.ravel(), meaning
            ),
            "mistakes": self._plot_samples(mistakes, "Most confident mistakes"),
            "examples": self.plot_examples(predictions),
        }

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import drawing

        rows = spread(len(predictions), drawing.SAMPLES)
        title = "Examples" if before is None else "Before and after training"
        return self._plot_samples(predictions.take(rows), title, before and before.take(rows))

    def _plot_samples(
        self, predictions: Predictions, title: str, before: Predictions | None = None
    ) -> Figure:
        from src.kindling.analysis import sample_plots

        captions = {"true": list_labels(predictions["target"], self.names)}
        for heading, some in (("untrained", before), ("predicted", predictions)):
            if some is not None:
                captions[heading] = list_labels(some["prediction"], self.names)
        right = (predictions["prediction"] == predictions["target"]).all(axis=1)
        return sample_plots.plot_samples(predictions, title, captions, right)
