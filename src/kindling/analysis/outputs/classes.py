"""One class out of several, and any number of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from torch import Tensor

from src.kindling.analysis import class_plots
from src.kindling.analysis.outputs.base import NAMES, Outputs, find_right
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.config.errors import join_names
from src.kindling.data.spec import Spec, TargetType

THRESHOLD = 0.5  # of a label's probability; above it, as in torchmetrics


class Classes(Outputs):
    """Logits `(B, K)` to one class: the most probable.

    Args:
        names: of the K classes.
        counts: training samples of each; equal where they are not known.
    """

    target_type: ClassVar[TargetType] = "class"
    fields: ClassVar[tuple[str, ...]] = ("classes", "class_counts")
    score_name: ClassVar[str] = "accuracy"
    decision: ClassVar[dict[str, Any]] = {"kind": "argmax"}
    averages: ClassVar[str] = "AUROC and recall"

    def __init__(self, names: Sequence[str], counts: Sequence[int] = ()) -> None:
        self.names = tuple(names)
        self.counts = tuple(counts) or (1,) * len(self.names)
        self.shape = (len(self.names),)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Convert logits `(B, K)` to probabilities in float32, as they are saved and measured.

        Saturated ones are equal, 1.0, and AUROC takes them for ties.
        """
        return raw.float().softmax(dim=1)

    def decode(self, probability: Tensor) -> Tensor:
        """Return class numbers `(B,)`."""
        return probability.argmax(dim=1)

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return whether each class is right, 0 or 1, `(B,)`."""
        return (self.decode(outputs) == target).float()

    def baseline(self) -> Tensor:
        """Return the share of each class in training, `(K,)`."""
        counts = torch.tensor(self.counts, dtype=torch.float32)
        return counts / counts.sum()

    def describe(self, spec: Spec, target: Tensor | None = None) -> list[tuple[str, str]]:
        least, most = np.argmin(self.counts), np.argmax(self.counts)
        low, high = self.counts[least], self.counts[most]
        ends = f"{self.names[most]} {high:,} to {self.names[least]} {low:,}"
        balance = f"{ends} in training (ratio {high / max(low, 1):.2f})"
        rows = [*super().describe(spec), ("balance", balance)]
        if len(self.names) == 2:
            rows.append(("positive class", f"{self.names[1]} (for precision, recall, F1, ROC)"))
        return rows

    def describe_missing(self, target: Array, stage: str, averaged: bool = True) -> str:
        return super().describe_missing(target, stage, averaged and len(self.names) > 2)

    def format(self, target: Tensor) -> str:
        return self.names[int(target)]

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """Return the class, its probability, and that of each class, or of the `top` best."""
        names, probability = np.array(self.names, dtype=object), columns["probability"]
        best = probability.topk(top or 1, dim=1)
        # The same class as `prediction`, where two are equally likely.
        chosen = columns["prediction"].unsqueeze(1)
        table = {
            "prediction": names[chosen[:, 0].numpy()],
            "probability": probability.gather(1, chosen)[:, 0].numpy(),
        }
        for i in range(1, top or 1):
            table[f"prediction_top{i + 1}"] = names[best.indices[:, i].numpy()]
            table[f"probability_top{i + 1}"] = best.values[:, i].numpy()
        if top is None:
            for i, name in enumerate(self.names):
                table[f"probability_{name}"] = probability[:, i].numpy()
        return table

    def captions(self, predictions: Predictions, column: str = "prediction") -> list[str]:
        texts = super().captions(predictions, column)
        shares = predictions["probability"].max(axis=1)
        if column == "target":
            return texts
        return [f"{share:.0%} {text}" for share, text in zip(shares, texts, strict=True)]

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        if not len(predictions):
            return {}
        target, predicted = predictions["target"], predictions["prediction"]
        counts = confusion_matrix(target, predicted, labels=np.arange(len(self.names)))
        probability, right = predictions["probability"], find_right(predictions)
        confidence = probability.max(axis=1)
        surest, unsure = (np.argsort(key, kind="stable") for key in (-confidence, confidence))
        mistakes = predictions.take(surest[~right[surest]][: self.gallery])
        uncertain = predictions.take(unsure[: self.gallery])
        claim = (confidence, right, "probability of the predicted class")
        if len(self.names) == 2:
            claim = (probability[:, 1], target == 1, f"probability of {self.names[1]}")
        title = f"Most confident of {np.count_nonzero(~right):,} mistakes"
        return {
            "confusion": class_plots.plot_confusion(counts, self.names),
            "classes": class_plots.plot_class_scores(target, predicted, self.names),
            "roc_and_pr": class_plots.plot_roc_and_pr(target, probability, self.names),
            "calibration": class_plots.plot_calibration(*claim),
            "mistakes": self.plot_samples(mistakes, title),
            "uncertain": self.plot_samples(uncertain, "Least certain"),
            "examples": self.plot_examples(predictions),
        }


class Labels(Outputs):
    """Logits `(B, K)` to labels: those whose probability is above 0.5.

    Args:
        names: of the K labels.
        shares: the share of training samples that have each; 0.5 where they are not known.
    """

    target_type: ClassVar[TargetType] = "labels"
    fields: ClassVar[tuple[str, ...]] = ("classes", "target_mean")
    score_name: ClassVar[str] = "exact_match"
    decision: ClassVar[dict[str, Any]] = {"kind": "threshold", "value": THRESHOLD}
    averages: ClassVar[str] = "AUROC and average precision"

    def __init__(self, names: Sequence[str], shares: Sequence[float] = ()) -> None:
        self.names = tuple(names)
        self.shares = tuple(shares) or (0.5,) * len(self.names)
        self.shape = (len(self.names),)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Convert logits `(B, K)` to probabilities in float32."""
        return raw.float().sigmoid()

    def decode(self, probability: Tensor) -> Tensor:
        """Return labels, 0 or 1, `(B, K)`."""
        return (probability > THRESHOLD).long()

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return whether all labels of a sample are right, 0 or 1, `(B,)`."""
        return (self.decode(outputs) == target).all(dim=1).float()

    def baseline(self) -> Tensor:
        """Return the share of training samples with each label, `(K,)`."""
        return torch.tensor(self.shares)

    def count(self, target: Tensor) -> Tensor:
        return target.sum(dim=0)

    def describe(self, spec: Spec, target: Tensor | None = None) -> list[tuple[str, str]]:
        counts = zip(self.names, spec.class_counts, self.shares, strict=True)
        texts = [f"{name} {count:,} ({share:.1%})" for name, count, share in counts]
        return [("labels", f"{len(texts)}, in training: {join_names(texts, NAMES)}")]

    def format(self, target: Tensor) -> str:
        return ";".join(self.names[i] for i in target.nonzero().flatten().tolist())

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """Return the labels in one column, `a;b`, and all probabilities."""
        table: dict[str, Any] = {"prediction": list(map(self.format, columns["prediction"]))}
        for i, name in enumerate(self.names):
            table[f"probability_{name}"] = columns["probability"][:, i].numpy()
        return table

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        if not len(predictions):
            return {}
        target, probability = predictions["target"], predictions["probability"]
        worst = np.argsort(-np.abs(probability - target).max(axis=1), kind="stable")
        wrong = worst[~find_right(predictions)[worst]][: self.gallery]
        claim = (probability.ravel(), target.ravel(), "probability of a label")
        return {
            "classes": class_plots.plot_class_scores(target, predictions["prediction"], self.names),
            "roc_and_pr": class_plots.plot_roc_and_pr(target, probability, self.names),
            "calibration": class_plots.plot_calibration(*claim),
            "mistakes": self.plot_samples(predictions.take(wrong), "Most confident mistakes"),
            "examples": self.plot_examples(predictions),
        }
