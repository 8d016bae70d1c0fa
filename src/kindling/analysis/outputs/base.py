"""What every kind of outputs can do, and the check that a task fits its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec, TargetType

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from matplotlib.figure import Figure
    from torch import Tensor

# Each kind of target: how a message names it, and the task that is made for it.
KINDS: dict[TargetType, tuple[str, str]] = {
    "class": ("one class for a sample", "classification"),
    "labels": ("several labels for a sample", "multilabel"),
    "values": ("values", "regression"),
    "mask": ("masks", "segmentation"),
}


class Outputs(Protocol):
    """One kind of prediction.

    Attributes:
        names: of the classes, labels or values.
        shape: of the net's output for one sample.
        column: the column that holds the full prediction: `probability` or `prediction`.
        answer_name: of what `predict_proba` returns.
        score_name: of the score of a sample.
        decision: how an exported file's output becomes a prediction: `{"kind": "argmax"}`,
            `{"kind": "threshold", "value": 0.5}` or `{"kind": "none"}`.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    column: ClassVar[str]
    answer_name: ClassVar[str]
    score_name: ClassVar[str]
    decision: ClassVar[dict[str, Any]]

    def predict_proba(self, raw: Tensor) -> Tensor:
        """The net's output `(B, *shape)` to probabilities, or to values in the target's unit."""

    def decode(self, probability: Tensor) -> Tensor:
        """Probabilities `(B, *shape)` to predictions `(B, …)`."""

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """The columns of `predict_step` that follow from the net's output `(B, *shape)`."""

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Score each prediction, `(B,)`, from `column` and targets."""

    def baseline(self) -> Tensor:
        """The constant prediction that the training targets give, `(*shape)`."""

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """The columns of a readable table, from those of `columns`."""

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plots by name, from predictions of a whole split."""

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Some predictions, with those of the untrained net for the same samples."""


def check_target(spec: Spec, expected: TargetType) -> None:
    """Check that a task supports the data's kind of target.

    Raises:
        InputError: naming the task that does.
    """
    if spec.target_type == expected:
        return
    found, task = KINDS[spec.target_type]
    if spec.target_type == "values" and spec.target:
        found = f"{found} ({spec.target})"
    raise InputError(f"task: needs {KINDS[expected][0]}, and the data has {found}; set task={task}")


def require_outputs(task: LightningModule, what: str) -> Outputs:
    """The task's `outputs`.

    Raises:
        InputError: when the task has none.
    """
    outputs: Outputs | None = getattr(task, "outputs", None)
    if outputs is None:
        raise InputError(
            f"task: {type(task).__name__} cannot {what}: set self.outputs to Classes(…), "
            "Labels(…), Values(…) or Masks(…) of src.kindling.analysis (docs/add-a-task.md)"
        )
    return outputs


def list_labels(labels: Array, names: tuple[str, ...]) -> list[str]:
    """Labels `(N, K)`, 0 or 1, as texts: `a;b`."""
    return [";".join(names[i] for i in row.nonzero()[0]) for row in labels]
