"""One or several numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from src.kindling.analysis.outputs.base import check_target
from src.kindling.analysis.predictions import Predictions
from src.kindling.data.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Values:
    """Values `(B, K)` in the unit of the target, without a decision rule.

    Args:
        names: of the K values.
        mean, std: of each in the training split.
    """

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
        self.shape: tuple[int, ...] = (len(self.names),)

    @classmethod
    def of(cls, spec: Spec) -> Values:
        """Outputs for the target of the data.

        Raises:
            InputError: when the data has another kind of target.
        """
        check_target(spec, "values")
        return cls(spec.names, spec.target_mean, spec.target_std)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """The values themselves."""
        return raw

    def decode(self, probability: Tensor) -> Tensor:
        """The values themselves."""
        return probability

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """`prediction` `(B, K)`."""
        return {"prediction": raw}

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The absolute error, the mean over the values of a sample, `(B,)`."""
        return (outputs - target).abs().mean(dim=1)

    def baseline(self) -> Tensor:
        """The mean of each value in training, `(K,)`."""
        return torch.tensor(self.mean)

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """A column for each value."""
        one = len(self.names) == 1
        names = ["prediction"] if one else [f"prediction_{name}" for name in self.names]
        return {name: columns["prediction"][:, i].numpy() for i, name in enumerate(names)}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        from src.kindling.analysis import drawing, sample_plots

        error = np.abs(predictions["prediction"] - predictions["target"])
        error = (error / np.array(self.std, np.float32)).max(axis=1)
        worst = predictions.take(np.argsort(-error, kind="stable")[: drawing.SAMPLES])
        difference = worst["prediction"] - worst["target"]
        captions = {
            "true": [_join(row, ".4g") for row in worst["target"]],
            "predicted": [_join(row, ".4g") for row in worst["prediction"]],
            "error": [_join(row, "+.4g") for row in difference],
        }
        of = f" ({', '.join(self.names)})" if len(self.names) > 1 else ""
        return {
            "errors": self.plot_examples(predictions),
            "worst": sample_plots.plot_samples(worst, f"Largest errors{of}", captions),
        }

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import value_plots

        past = None if before is None else before["prediction"]
        return value_plots.plot_values(
            predictions["target"], predictions["prediction"], self.names, past
        )


def _join(values: Any, form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)
