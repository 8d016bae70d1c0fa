"""The interface of outputs, and the check that a task fits its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis import drawing
from src.kindling.analysis.predictions import Array, Predictions, spread
from src.kindling.analysis.sample_plots import draw_images, plot_samples
from src.kindling.config.errors import InputError, join_names
from src.kindling.data.spec import Spec, TargetType
from src.kindling.nn.additions import outputs_of

# Each kind of target: how a message names it, and the task that is made for it.
KINDS: dict[TargetType, tuple[str, str]] = {
    "class": ("one class for a sample", "classification"),
    "labels": ("several labels for a sample", "multilabel"),
    "values": ("values", "regression"),
    "mask": ("masks", "segmentation"),
}
NAMES = 20  # classes of a summary
BARS = 40  # classes of a plot


class Outputs(Protocol):
    """One kind of prediction: how it is decoded, scored, plotted, tabulated and exported.

    Attributes:
        target_type: the kind of target in the data.
        fields: the attributes of a spec that the constructor takes.
        names: of the classes, labels or values.
        shape: of the net's output for one sample.
        column: the column that holds the full prediction: `probability` or `prediction`.
        answer_name: of what `predict_proba` returns.
        score_name: of the score of a sample.
        decision: how an exported file's output becomes a prediction: `{"kind": "argmax"}`,
            `{"kind": "threshold", "value": 0.5}` or `{"kind": "none"}`.
        counted: the unit of class counts.
        averages: test metrics that leave out classes without a sample.
        gallery: number of samples in a gallery.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    target_type: ClassVar[TargetType]
    fields: ClassVar[tuple[str, ...]]
    column: ClassVar[str] = "probability"
    answer_name: ClassVar[str] = "probability"
    score_name: ClassVar[str]
    decision: ClassVar[dict[str, Any]]
    counted: ClassVar[str] = "samples"
    averages: ClassVar[str] = ""
    gallery: ClassVar[int] = 16

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """Make outputs for the target of the data; raise InputError for another kind of target."""
        if spec.target_type != cls.target_type:
            (wanted, _), (found, task) = KINDS[cls.target_type], KINDS[spec.target_type]
            if not spec.classes and spec.target:
                found = f"{found} ({spec.target})"
            raise InputError(f"task: needs {wanted}, and the data has {found}; set task={task}")
        return cls(*(getattr(spec, field) for field in cls.fields))

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Convert the net's output `(B, *shape)` to probabilities, or to the target's unit."""

    def decode(self, probability: Tensor) -> Tensor:
        """Convert probabilities `(B, *shape)` to predictions `(B, …)`."""

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """Compute the columns of `predict_step` from the net's output `(B, *shape)`."""
        probability = self.predict_proba(raw)
        return {"prediction": self.decode(probability), "probability": probability}

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Score each prediction, `(B,)`, from `column` and targets."""

    def baseline(self) -> Tensor:
        """Return the constant prediction from the training targets, `(*shape)`."""

    def format(self, target: Tensor) -> str:
        """Format a target, or a prediction, of one sample."""

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """Make the columns of a readable table from those of `columns`."""

    def count(self, target: Tensor) -> Tensor:
        """Count each class in targets `(B, …)`, `(K,)`."""
        return torch.bincount(target.flatten().long(), minlength=256)[: len(self.names)]

    def find_missing(self, target: Array) -> list[str]:
        """List the classes without a target, if metrics leave them out."""
        counts = self.count(torch.from_numpy(target)).tolist() if self.averages else []
        return [name for name, count in zip(self.names, counts, strict=False) if not count]

    def describe(self, spec: Spec, target: Tensor | None = None) -> list[tuple[str, str]]:
        """Describe the training targets as (property, text) pairs; `target` adds their range."""
        total = max(sum(spec.class_counts), 1)
        counts = zip(self.names, spec.class_counts, strict=True)
        texts = [f"{name} {count:,} ({count / total:.1%})" for name, count in counts]
        listed = join_names(texts, NAMES)
        return [("classes", f"{len(texts)}, {self.counted} in training: {listed}")]

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot predictions of a whole split; return the figures by name."""

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Plot some predictions, with those of the untrained net for the same samples."""
        rows = spread(len(predictions), self.gallery)
        if before is None:
            return self.plot_samples(predictions.take(rows), "Examples")
        parts = before.take(rows), predictions.take(rows)
        old, new = (part["score"].mean() for part in parts)
        name = self.score_name.replace("_", " ")
        title = f"Before and after training: {name} {old:.2f} and {new:.2f}"
        return self.plot_samples(parts[1], title, parts[0])

    def plot_samples(
        self, predictions: Predictions, title: str, before: Predictions | None = None
    ) -> Figure:
        """Plot all samples of some predictions."""
        captions = {"true": self.captions(predictions, "target")}
        if before is not None:
            captions["untrained"] = self.captions(before)
        captions["predicted"] = self.captions(predictions)
        return plot_samples(predictions, title, captions, find_right(predictions).tolist())

    def captions(self, predictions: Predictions, column: str = "prediction") -> list[str]:
        """Format a column."""
        return [self.format(one) for one in torch.from_numpy(predictions[column])]

    def plot_inputs(
        self, x: Tensor, y: Sequence[Tensor], captions: Sequence[str], title: str
    ) -> Figure:
        """Plot images `(N, C, H, W)` over their captions; with their targets if these are masks."""
        return draw_images(x, [[caption] for caption in captions], title)

    def plot_targets(self, targets: Mapping[str, Tensor]) -> Figure:
        """Plot the distribution of the targets `(N, …)` of each split: counts, as stacked bars."""
        counts = {stage: self.count(target).numpy() for stage, target in targets.items()}
        labels = [drawing.shorten_label(name, 30) for name in self.names]
        table = pd.DataFrame(counts, index=labels)
        table = table.iloc[np.argsort(-table.sum(axis=1), kind="stable")[:BARS]]
        figure, (axis,) = drawing.create_panels(1, 7.5, 1.0 + 0.25 * len(table))
        table.plot.barh(ax=axis, stacked=True, width=0.8, legend=False)
        axis.invert_yaxis()
        figure.legend(loc="outside right upper", fontsize=8)
        title = "Classes" if len(labels) <= BARS else f"The {BARS} largest of {len(labels)} classes"
        drawing.set_titles(axis, title, self.counted)
        return figure


def find_right(predictions: Predictions) -> Array:
    """Return whether each sample's class, or all its labels, are right, `(N,)`."""
    right = np.equal(predictions["prediction"], predictions["target"])
    return np.asarray(right.all(axis=tuple(range(1, right.ndim))))


def require_outputs(task: LightningModule, what: str) -> Outputs:
    """Return the task's `outputs`.

    Raises:
        InputError: when the task has none.
    """
    outputs: Outputs | None = outputs_of(task)
    if outputs is None:
        raise InputError(
            f"task: {type(task).__name__} cannot {what}: set self.outputs to Classes(…), "
            "Labels(…), Values(…) or Masks(…) of src.kindling.analysis (docs/how-to/add-a-task.md)"
        )
    return outputs
