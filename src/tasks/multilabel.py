"""Multi-label classification: any number of several labels, each with a probability of its own.

A file beside src/tasks/classification.py, because nearly every line would ask which of the two it is: the loss, its
targets, the weights, the metrics, what a probability means, what is predicted, and each picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import (
    MultilabelAccuracy,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import Batch, BatchTransform
from src.kindling.data.preprocess import preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.meter import Each, MeanOverClasses, Meter
from src.kindling.nn.optimizers import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.kindling.analysis.predictions import Array, Predictions


class Multilabel(LightningModule):
    """Raw input in, logits out; a label is predicted where its probability is above 0.5.

    Args:
        net: maps standardized input `(B, *in_shape)` to logits `(B, num_outputs)`.
        spec: what is known of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes logits and labels (0.0 or 1.0), each `(B, num_outputs)`.
        class_weights: `balanced` weighs each label's presence in the loss by how many samples lack it for one that
            has it, in the training split.
        metrics: further torchmetrics by name, taking probabilities, float32, and labels (0 or 1,
            int64), each `(N, num_outputs)`.
        augment: random transforms of training batches, after preprocessing; filled in from the data.
        decay_all: False exempts biases and norms from weight decay.
        monitor: what picks the best checkpoint, stops early and steers schedules and studies.
        mode: whether less or more of it is better; a config that sets `monitor` may leave it out (training/monitor.py).

    Raises:
        InputError: when the data are of another kind.
    """

    answers, scored = "probability", "exact_match"

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        optimizer: Callable[[Any], Optimizer] = AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss: nn.Module | None = None,
        class_weights: Literal["balanced"] | None = None,
        metrics: dict[str, Metric] | None = None,
        augment: Sequence[BatchTransform] = (),
        decay_all: bool = True,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        super().__init__()
        if spec.predicts != "labels":
            what, other = {
                "class": ("one class for a sample", "classification"),
                "values": (f"values ({spec.target})", "regression"),
                "mask": ("masks", "segmentation"),
            }[spec.predicts]
            raise InputError(
                f"task: Multilabel needs several labels for a sample, and the data has {what}; try task={other}"
            )
        self.spec, self.out_shape = spec, (spec.num_outputs,)
        self.preprocess = preprocess(spec, net)
        self.augment = nn.ModuleList(augment)
        self.net = net
        self.loss = loss or nn.BCEWithLogitsLoss()
        self.notes: list[str] = []  # what a user should be told
        if class_weights is not None:
            weights = _weigh(self.loss, spec).tolist()
            shown = [f"{name} {weight:.3g}" for name, weight in zip(spec.classes, weights, strict=True)]
            self.notes.append(f"weights of the labels' presence in the loss: {counted(shown, most=10)}")
        self.optimizer, self.scheduler, self.decay_all = optimizer, scheduler, decay_all
        self.monitor, self.mode = monitor, mode
        extra = metrics or {}
        if taken := sorted(set(_metrics(spec.classes)) & set(extra)):
            raise InputError(f"task.metrics.{taken[0]}: the name is taken by a metric of the task; choose another")
        accuracy = MultilabelAccuracy(spec.num_outputs, average="micro")
        self.train_meter = Meter("train", {"accuracy": accuracy}, to_probabilities)
        self.val_meter = Meter("val", {**_metrics(spec.classes), **extra}, to_probabilities)
        self.val_meter.has(monitor)
        self.test_meter = Meter("test", {**_metrics(spec.classes), **extra}, to_probabilities)

    def forward(self, x: Tensor) -> Tensor:
        """Raw input `(B, *shape)` to logits `(B, num_outputs)`."""
        logits: Tensor = self.net(self.preprocess(x))
        return logits

    def targets(self, y: Tensor) -> Tensor:
        """A batch's targets as the loss takes them."""
        return y.float()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        x, y = self.preprocess(batch.x), self.targets(batch.y)
        for transform in self.augment:
            x, y = transform(x, y)
        logits = self.net(x)
        loss: Tensor = self.loss(logits, y)
        self.train_meter.update(loss, logits, batch.y)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        logits = self(batch.x)
        self.val_meter.update(self.loss(logits, self.targets(batch.y)), logits, batch.y)

    def test_step(self, batch: Batch, _: int) -> None:
        logits = self(batch.x)
        self.test_meter.update(self.loss(logits, self.targets(batch.y)), logits, batch.y)

    def predict_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        """Columns: `index` `(B,)`; `target` and `prediction`, 0 or 1, and `probability`, each `(B, num_outputs)`."""
        probability = self.answer(batch.x)
        return {
            "index": batch.index,
            "target": batch.y,
            "prediction": self.decide(probability),
            "probability": probability,
        }

    def answer(self, x: Tensor) -> Tensor:
        """Raw input to the probability of each label, `(B, num_outputs)`: what a user gets, exported or served."""
        return to_probabilities(self(x))

    def decide(self, answer: Tensor) -> Tensor:
        """The labels of an answer, 0 or 1, `(B, num_outputs)`: those above 0.5, as in torchmetrics."""
        return (answer > 0.5).long()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether all of a sample's labels are right, 0 or 1, `(B,)`; from probabilities and labels."""
        return (self.decide(outputs) == targets).all(dim=1).float()

    def trivial(self) -> Tensor:
        """What is answered by who knows the training targets alone: the share of samples that have each label."""
        return torch.tensor(self.spec.target_mean)

    def rows(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """A readable table of the columns of `predict_step`: the labels in one column, `a;b`, and all probabilities."""
        probability = columns["probability"]
        return {"prediction": self._listed(columns["prediction"].numpy()),
                **{f"probability_{name}": probability[:, i].numpy() for i, name in enumerate(self.spec.classes)}}  # fmt: skip

    def figures(self, predictions: Predictions) -> dict[str, Figure]:
        """Pictures by name, from the columns of `predict_step`."""
        from src.kindling.analysis import figures, figures_of_classes

        if not len(predictions):
            return {}
        names, target, probability = self.spec.classes, predictions["target"], predictions["probability"]
        wrong = np.abs(probability - target)  # how far each label is off
        worst = np.argsort(-wrong.max(axis=1), kind="stable")[: figures.SAMPLES]
        worst = worst[(predictions["prediction"] != target).any(axis=1)[worst]]
        return {
            "classes": figures_of_classes.classes(target, predictions["prediction"], names),
            "roc_and_pr": figures_of_classes.roc_and_pr(target, probability, names),
            "calibration": figures_of_classes.calibration(
                probability.ravel(), target.ravel(), "probability of a label"
            ),
            "mistakes": self._samples(predictions.take(worst), "Most confident mistakes"),
            "examples": self.examples(predictions),
        }

    def examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Some samples and what is predicted; beside it what was `before`, of the same samples."""
        from src.kindling.analysis.figures import SAMPLES
        from src.kindling.analysis.predictions import spread

        rows = spread(len(predictions), SAMPLES)
        title = "Examples" if before is None else "Before and after training"
        return self._samples(predictions.take(rows), title, before and before.take(rows))

    def _samples(self, predictions: Predictions, title: str, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import figures

        captions = {"true": self._listed(predictions["target"])}
        for told, some in (("untrained", before), ("predicted", predictions)):
            if some is not None:
                captions[told] = self._listed(some["prediction"])
        right = (predictions["prediction"] == predictions["target"]).all(axis=1)
        return figures.samples(predictions, title, captions, right)

    def _listed(self, labels: Array) -> list[str]:
        """Labels `(N, num_outputs)`, 0 or 1, as texts: `a;b`."""
        return [";".join(self.spec.classes[i] for i in np.flatnonzero(row)) for row in labels]

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.monitor, self.mode, self.decay_all)


def to_probabilities(logits: Tensor) -> Tensor:
    """Logits `(B, num_outputs)` to probabilities in float32, as they are saved and measured.

    Saturated ones are equal, 1.0, and AUROC takes them for ties.
    """
    return logits.float().sigmoid()


def _weigh(loss: nn.Module, spec: Spec) -> Tensor:
    if not isinstance(loss, nn.BCEWithLogitsLoss):
        raise InputError(f"task.class_weights: {type(loss).__name__} takes none; use torch.nn.BCEWithLogitsLoss")
    share = torch.tensor(spec.target_mean).clamp(min=1e-6)
    loss.pos_weight = (1 - share) / share
    return loss.pos_weight


def _metrics(names: Sequence[str]) -> dict[str, Metric]:
    count = len(names)
    # F1 of a label that neither occurs nor is predicted is NaN, and left out of the mean. Arguments
    # are not validated, because torchmetrics would only allow 0 or 1 for 0/0.
    f1 = MultilabelF1Score(count, average="none", zero_division=math.nan, validate_args=False)
    return {
        "accuracy": MultilabelAccuracy(count, average="micro"),
        "exact_match": MultilabelExactMatch(count),
        "f1": Each(f1, "f1", names),
        "map": MeanOverClasses(binary_average_precision, names, negatives=False),
        "auroc": MeanOverClasses(binary_auroc, names, negatives=True),
    }
