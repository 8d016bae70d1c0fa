"""Classification: one class out of several, for images and tables alike."""

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
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.functional.classification import binary_auroc

from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import Batch, BatchTransform
from src.kindling.data.preprocess import preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.meter import MeanOverClasses, Meter
from src.kindling.nn.optimizers import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.kindling.analysis.predictions import Array, Predictions


class Classification(LightningModule):
    """Raw input in, logits out; trained on a loss over logits and class numbers.

    What it says beyond Lightning's methods is explained in docs/add-a-task.md.

    Args:
        net: maps standardized input `(B, *in_shape)` to logits `(B, num_outputs)`.
        spec: what is known of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes logits `(B, num_outputs)` and class numbers `(B,)`.
        class_weights: `balanced` weighs each class in the loss by the inverse of its share of the training split.
        metrics: further torchmetrics by name, taking probabilities `(N, num_outputs)`, float32, and
            class numbers `(N,)`.
        augment: random transforms of training batches, after preprocessing; filled in from the data.
        decay_all: False exempts biases and norms from weight decay.
        monitor: what picks the best checkpoint, stops early and steers schedules and studies.
        mode: whether less or more of it is better; a config that sets `monitor` may leave it out (training/monitor.py).

    Raises:
        InputError: when the data are of the other kind.
    """

    answers, scored = "probability", "accuracy"

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
        if spec.predicts != "class":
            what, other = {
                "values": (f"values ({spec.target})", "regression"),
                "labels": (f"several labels for a sample ({counted(spec.classes)})", "multilabel"),
                "mask": ("masks", "segmentation"),
            }[spec.predicts]
            raise InputError(f"task: Classification needs classes, and the data has {what}; try task={other}")
        self.spec, self.out_shape = spec, (spec.num_outputs,)
        self.preprocess = preprocess(spec, net)
        self.augment = nn.ModuleList(augment)
        self.mixes = any(transform.mixes for transform in augment)
        self.net = net
        self.loss = loss or nn.CrossEntropyLoss()
        self.notes: list[str] = []  # what a user should be told
        if class_weights is not None:
            weights = _weigh(self.loss, spec).tolist()
            shown = [f"{name} {weight:.3g}" for name, weight in zip(spec.classes, weights, strict=True)]
            self.notes.append(f"class weights in the loss: {counted(shown, most=10)}")
        self.optimizer, self.scheduler, self.decay_all = optimizer, scheduler, decay_all
        self.monitor, self.mode = monitor, mode
        extra = metrics or {}
        if taken := sorted(set(_metrics(spec.classes)) & set(extra)):
            raise InputError(f"task.metrics.{taken[0]}: the name is taken by a metric of the task; choose another")
        accuracy = MulticlassAccuracy(spec.num_outputs, average="micro")
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
        return y

    def training_step(self, batch: Batch, _: int) -> Tensor:
        x, y = self.preprocess(batch.x), self.targets(batch.y)
        if self.mixes:
            y = nn.functional.one_hot(y, self.spec.num_outputs).to(x.dtype)
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
        """Columns: `index`, `target` and `prediction` `(B,)`, `probability` `(B, num_outputs)`."""
        probability = self.answer(batch.x)
        return {
            "index": batch.index,
            "target": batch.y,
            "prediction": self.decide(probability),
            "probability": probability,
        }

    def answer(self, x: Tensor) -> Tensor:
        """Raw input to the probability of each class, `(B, num_outputs)`: what a user gets, exported or served."""
        return to_probabilities(self(x))

    def decide(self, answer: Tensor) -> Tensor:
        """The class numbers `(B,)` that an answer comes to."""
        return answer.argmax(dim=1)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each sample's class is right, 0 or 1, `(B,)`; from probabilities and class numbers."""
        return (self.decide(outputs) == targets).float()

    def trivial(self) -> Tensor:
        """What is answered by who knows the training targets alone: the share of each class."""
        counts = torch.tensor(self.spec.class_counts, dtype=torch.float32)
        return counts / counts.sum()

    def rows(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Array]:
        """A readable table of the columns of `predict_step`; with `top`, of so many of the likeliest classes alone."""
        names, probability = np.array(self.spec.classes, dtype=object), columns["probability"]
        best = probability.topk(top or 1, dim=1)
        # The same class as `prediction`, where two are equally likely.
        chosen = columns["prediction"].unsqueeze(1)
        table = {"prediction": names[chosen[:, 0].numpy()], "probability": probability.gather(1, chosen)[:, 0].numpy()}
        for i in range(1, top or 1):
            table[f"prediction_top{i + 1}"] = names[best.indices[:, i].numpy()]
            table[f"probability_top{i + 1}"] = best.values[:, i].numpy()
        if top is None:
            table |= {f"probability_{name}": probability[:, i].numpy() for i, name in enumerate(self.spec.classes)}
        return table

    def figures(self, predictions: Predictions) -> dict[str, Figure]:
        """Pictures by name, from the columns of `predict_step`."""
        from src.kindling.analysis import figures, figures_of_classes

        if not len(predictions):
            return {}
        names, target, predicted = self.spec.classes, predictions["target"], predictions["prediction"]
        probability, wrong = predictions["probability"], np.flatnonzero(target != predicted)
        claimed, true, meaning = probability.max(axis=1), target == predicted, "probability of the predicted class"
        surest = predictions.take(wrong[np.argsort(-claimed[wrong], kind="stable")][: figures.SAMPLES])
        uncertain = predictions.take(np.argsort(claimed, kind="stable")[: figures.SAMPLES])
        if len(names) == 2:
            claimed, true, meaning = probability[:, 1], target == 1, f"probability of {names[1]}"
        return {
            "confusion": figures_of_classes.confusion(target, predicted, names),
            "classes": figures_of_classes.classes(target, predicted, names),
            "roc_and_pr": figures_of_classes.roc_and_pr(target, probability, names),
            "calibration": figures_of_classes.calibration(claimed, true, meaning),
            "mistakes": self._samples(surest, f"Most confident of {len(wrong):,} mistakes"),
            "uncertain": self._samples(uncertain, "Least certain"),
            "examples": self.examples(predictions),
        }

    def examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Some samples and what is predicted; beside it what was `before`, of the same samples."""
        from src.kindling.analysis.figures import SAMPLES
        from src.kindling.analysis.predictions import spread

        rows = spread(len(predictions), SAMPLES)
        some, title = predictions.take(rows), "Examples"
        if before is not None:
            before = before.take(rows)
            right = [np.count_nonzero(said["prediction"] == said["target"]) for said in (before, some)]
            title = f"Before and after training: {right[0]} and {right[1]} of {len(rows)} right"
        return self._samples(some, title, before)

    def _samples(self, predictions: Predictions, title: str, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import figures

        names = self.spec.classes
        captions = {"true": [names[i] for i in predictions["target"]]}
        for told, some in (("untrained", before), ("predicted", predictions)):
            if some is not None:
                claimed = some["probability"].max(axis=1)
                captions[told] = [f"{p:.0%} {names[i]}" for p, i in zip(claimed, some["prediction"], strict=True)]
        return figures.samples(predictions, title, captions, predictions["prediction"] == predictions["target"])

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.monitor, self.mode, self.decay_all)


class MeanRecall(MulticlassRecall):
    """The mean over the classes that occur; torchmetrics' counts one that is only predicted as 0.

    That is scikit-learn's balanced accuracy. It is made with `average="none"`, NaN for 0/0, and
    without validation of arguments, which would allow only 0 or 1.
    """

    def compute(self) -> Tensor:
        values: Tensor = super().compute()
        return values.nanmean()


def to_probabilities(logits: Tensor) -> Tensor:
    """Logits `(B, num_outputs)` to probabilities in float32, as they are saved and measured.

    Saturated ones are equal, 1.0, and AUROC takes them for ties.
    """
    return logits.float().softmax(dim=1)


def _weigh(loss: nn.Module, spec: Spec) -> Tensor:
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss):
        raise InputError(f"task.class_weights: {type(loss).__name__} takes no weights; use torch.nn.CrossEntropyLoss")
    counts = torch.tensor(spec.class_counts, dtype=torch.float32)
    loss.weight = counts.sum() / (len(counts) * counts)
    return loss.weight


def _metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Accuracy, and means over the classes that occur.

    A class that does not occur but is predicted has a precision and an F1 of 0, as in scikit-learn.
    """
    count = len(names)
    return {
        "accuracy": MulticlassAccuracy(count, average="micro"),
        "precision": MulticlassPrecision(count, average="macro"),
        "recall": MeanRecall(count, average="none", zero_division=math.nan, validate_args=False),
        "f1": MulticlassF1Score(count, average="macro"),
        "auroc": MeanOverClasses(binary_auroc, names, negatives=True),
    }
