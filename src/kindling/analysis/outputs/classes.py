"""One class out of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from src.kindling.analysis.outputs.base import check_target
from src.kindling.analysis.predictions import Predictions, spread
from src.kindling.data.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Classes:
    """Logits `(B, K)` to one class: the most probable.

    Args:
        names: of the K classes.
        counts: training samples of each; equal where they are not known.
    """

    column: ClassVar[str] = "probability"
    answer_name: ClassVar[str] = "probability"
    score_name: ClassVar[str] = "accuracy"
    decision: ClassVar[dict[str, Any]] = {"kind": "argmax"}

    def __init__(self, names: Sequence[str], counts: Sequence[int] = ()) -> None:
        self.names = tuple(names)
        self.counts = tuple(counts) or (1,) * len(self.names)
        self.shape: tuple[int, ...] = (len(self.names),)

    @classmethod
    def of(cls, spec: Spec) -> Classes:
        """Outputs for the target of the data.

        Raises:
            InputError: when the data has another kind of target.
        """
        check_target(spec, "class")
        return cls(spec.classes, spec.class_counts)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Logits `(B, K)` to probabilities in float32, as they are saved and measured.

        Saturated ones are equal, 1.0, and AUROC takes them for ties.
        """
        return raw.float().softmax(dim=1)

    def decode(self, probability: Tensor) -> Tensor:
        """Class numbers `(B,)`."""
        return probability.argmax(dim=1)

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """`prediction` `(B,)` and `probability` `(B, K)`."""
        probability = self.predict_proba(raw)
        return {"prediction": self.decode(probability), "probability": probability}

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether each class is right, 0 or 1, `(B,)`."""
        return (self.decode(outputs) == target).float()

    def baseline(self) -> Tensor:
        """The share of each class in training, `(K,)`."""
        counts = torch.tensor(self.counts, dtype=torch.float32)
        return counts / counts.sum()

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """The class, its probability, and that of each class, or of the `top` most probable."""
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

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        from src.kindling.analysis import class_plots, drawing

        if not len(predictions):
            return {}
        target, predicted = predictions["target"], predictions["prediction"]
        probability, wrong = predictions["probability"], np.flatnonzero(target != predicted)
        confidence = probability.max(axis=1)
        surest = predictions.take(
            wrong[np.argsort(-confidence[wrong], kind="stable")][: drawing.SAMPLES]
        )
        uncertain = predictions.take(np.argsort(confidence, kind="stable")[: drawing.SAMPLES])
        return {
            "confusion": class_plots.plot_confusion(target, predicted, self.names),
            "classes": class_plots.plot_class_scores(target, predicted, self.names),
            "roc_and_pr": class_plots.plot_roc_and_pr(target, probability, self.names),
            "calibration": self._plot_calibration(predictions),
            "mistakes": self._plot_samples(surest, f"Most confident of {len(wrong):,} mistakes"),
            "uncertain": self._plot_samples(uncertain, "Least certain"),
            "examples": self.plot_examples(predictions),
        }

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import drawing

        rows = spread(len(predictions), drawing.SAMPLES)
        some, title = predictions.take(rows), "Examples"
        if before is not None:
            before = before.take(rows)
            right = [
                np.count_nonzero(those["prediction"] == those["target"]) for those in (before, some)
            ]
            title = f"Before and after training: {right[0]} and {right[1]} of {len(rows)} right"
        return self._plot_samples(some, title, before)

    def _plot_calibration(self, predictions: Predictions) -> Figure:
        from src.kindling.analysis import class_plots

        target, probability = predictions["target"], predictions["probability"]
        if len(self.names) == 2:
            meaning = f"probability of {self.names[1]}"
            return class_plots.plot_calibration(probability[:, 1], target == 1, meaning)
        right = target == predictions["prediction"]
        meaning = "probability of the predicted class"
        return class_plots.plot_calibration(probability.max(axis=1), right, meaning)

    def _plot_samples(
        self, predictions: Predictions, title: str, before: Predictions | None = None
    ) -> Figure:
        from src.kindling.analysis import sample_plots

        captions = {"true": [self.names[i] for i in predictions["target"]]}
        for heading, some in (("untrained", before), ("predicted", predictions)):
            if some is not None:
                confidence = some["probability"].max(axis=1)
                captions[heading] = [
                    f"{share:.0%} {self.names[i]}"
                    for share, i in zip(confidence, some["prediction"], strict=True)
                ]
        right = predictions["prediction"] == predictions["target"]
        return sample_plots.plot_samples(predictions, title, captions, right)
