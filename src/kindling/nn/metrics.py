"""The supervised tasks' metrics: torchmetrics, corrected where it differs from scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassStatScores,
    MultilabelAccuracy,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from src.kindling.config.errors import InputError, join_names
from src.kindling.nn.meter import MeanOverClasses, plain_names


def with_extra(own: Mapping[str, Metric], extra: Mapping[str, Metric] | None) -> dict[str, Metric]:
    """A task's own metrics and those of its config, under other names."""
    names = {name for key, metric in own.items() for name in (key, *getattr(metric, "names", ()))}
    if taken := sorted(names & set(extra or {})):
        problem = "the name is taken by a metric of the task"
        raise InputError(f"task.metrics.{taken[0]}: {problem}; choose another")
    return {**own, **(extra or {})}


def multiclass_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Accuracy, AUROC, F1, precision and recall, of probabilities and class numbers."""
    return {
        "accuracy": MulticlassAccuracy(len(names), average="micro"),
        "auroc": MeanOverClasses(binary_auroc, names, negatives=True),
        "f1": ClassScores(names),
    }


def multilabel_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Metrics of probabilities and labels (0 or 1), each `(N, labels)`."""
    return {
        "accuracy": MultilabelAccuracy(len(names), average="micro"),
        "auroc": MeanOverClasses(binary_auroc, names, negatives=True),
        "average_precision": MeanOverClasses(binary_average_precision, names, negatives=False),
        "exact_match": MultilabelExactMatch(len(names)),
        "f1": LabelF1(names),
    }


class ClassScores(MulticlassStatScores):
    """F1, precision and recall, as in scikit-learn.

    Of two classes they are those of the second one, the positive class. Of more classes they are
    means: recall over those that occur (balanced accuracy), F1 and precision over those that occur
    or are predicted. A class that does not occur but is predicted has an F1 and a precision of 0.

    Args:
        names: of the classes.
    """

    higher_is_better = True
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(len(names), average="none")
        self.classes, self.note = names, ""
        self.names = ["f1", "precision", "recall"]

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        occurring, predicted = self.tp + self.fn, self.tp + self.fp
        self.note = describe_predicted(self.classes, occurring, predicted)
        f1 = 2 * self.tp / (occurring + predicted).clamp(min=1)
        precision, recall = self.tp / predicted.clamp(min=1), self.tp / occurring
        if len(self.classes) == 2:
            return {"f1": f1[1], "precision": precision[1], "recall": recall[1]}
        found = occurring + predicted > 0
        means = f1[found].mean(), precision[found].mean(), recall.nanmean()
        return dict(zip(self.names, means, strict=True))


class LabelF1(MultilabelF1Score):
    """F1 of each label and its mean: `f1`, `f1_urgent`, ….

    That of a label that neither occurs nor is predicted is NaN, and left out of the mean.

    Args:
        names: of the labels.
    """

    def __init__(self, names: Sequence[str]) -> None:
        # Arguments are not validated, because torchmetrics would only allow 0 or 1 for 0/0.
        options: dict[str, Any] = {"zero_division": math.nan, "validate_args": False}
        super().__init__(len(names), average="none", **options)
        self.names = ["f1", *(f"f1_{one}" for one in plain_names(names))]

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        values: Tensor = super().compute()
        return dict(zip(self.names, (values.nanmean(), *values), strict=True))


def describe_predicted(names: Sequence[str], occurring: Tensor, predicted: Tensor) -> str:
    """Name classes that are never predicted, or predicted but never occur, by counts `(K,)`."""
    counts = list(zip(names, occurring.tolist(), predicted.tolist(), strict=True))
    never = [name for name, true, found in counts if true and not found]
    absent = [name for name, true, found in counts if found and not true]
    notes = [f"never predicted: {join_names(never)}"] if never else []
    if absent:
        notes.append(f"predicted, but not in this split: {join_names(absent)} (counts as 0)")
    return "; ".join(notes)


class RegressionScores(Metric):
    """MAE, RMSE and R² of each value and their means over the values, from float64 sums.

    torchmetrics' R2Score takes the difference of two float32 sums, and sums below 1e-4 for zero:
    wrong for targets far from 0 or small ones. Here deviations are summed around the training mean.
    As in scikit-learn, R² of equal targets is 1 without any error, else 0; it needs two samples.

    Args:
        names: of the values.
        mean: of each value in the training split, in the target's unit.
        baseline: whether to add MAE and RMSE of the predictor that always says this mean.
    """

    count: Tensor
    absolute: Tensor
    squared: Tensor
    deviation: Tensor
    deviation_absolute: Tensor
    deviation_squared: Tensor

    def __init__(self, names: Sequence[str], mean: Sequence[float], baseline: bool = False) -> None:
        super().__init__()
        self.mean, self.baseline = tuple(mean), baseline
        self.values = plain_names(names) if len(names) > 1 else []
        endings = ["", *(f"_{value}" for value in self.values)]
        self.names = [f"{name}{ending}" for name in ("mae", "rmse", "r2") for ending in endings]
        self.names += ["mean_predictor_mae", "mean_predictor_rmse"] if baseline else []
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        sums = "absolute", "squared", "deviation", "deviation_absolute", "deviation_squared"
        for name in sums:
            zeros = torch.zeros(len(names), dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        device = self.count.device  # on MPS, which has no float64, it is the CPU
        outputs, targets = outputs.to(device).double(), targets.to(device).double()
        errors, deviations = outputs - targets, targets - targets.new_tensor(self.mean)
        self.count += len(targets)
        self.absolute += errors.abs().sum(dim=0)
        self.squared += errors.square().sum(dim=0)
        self.deviation += deviations.sum(dim=0)
        self.deviation_absolute += deviations.abs().sum(dim=0)
        self.deviation_squared += deviations.square().sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        each = {
            "mae": self.absolute / self.count,
            "rmse": (self.squared / self.count).sqrt(),
            "r2": self._r2(),
        }
        values = {name: found.mean() for name, found in each.items()}
        for name, found in each.items():
            values |= {f"{name}_{of}": value for of, value in zip(self.values, found, strict=False)}
        if self.baseline:
            values["mean_predictor_mae"] = (self.deviation_absolute / self.count).mean()
            values["mean_predictor_rmse"] = (self.deviation_squared / self.count).sqrt().mean()
        return {name: value.float() for name, value in values.items()}

    def _r2(self) -> Tensor:
        total = self.deviation_squared - self.deviation.square() / self.count
        equal = total <= 1e-13 * self.deviation_squared  # of equal targets, rounding leaves less
        r2 = torch.where(equal, (self.squared == 0).double(), 1 - self.squared / total)
        return r2.masked_fill(self.count < 2, torch.nan)


class Overlap(Metric):
    """IoU and Dice, of each class and averaged over the classes that occur, and pixel accuracy.

    They are computed over all pixels of an epoch, from a confusion matrix.

    Args:
        names: of the classes.
        each: also give `iou_<class>` and `dice_<class>`; NaN for a class that does not occur.
    """

    confusion: Tensor

    def __init__(self, names: Sequence[str], each: bool = True) -> None:
        super().__init__()
        self.classes, self.of = len(names), plain_names(names) if each else []
        self.titles, self.note = names, ""
        self.names = ["iou", "dice", "pixel_accuracy"]
        self.names += [f"{name}_{of}" for name in ("iou", "dice") for of in self.of]
        zeros = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def update(self, masks: Tensor, targets: Tensor) -> None:
        self.confusion += confusions(masks, targets, self.classes).sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        found, occurring = overlaps(self.confusion), self.confusion.sum(dim=1)
        self.note = describe_predicted(self.titles, occurring, self.confusion.sum(dim=0))
        values = {name: found[name].nanmean() for name in ("iou", "dice")}
        values["pixel_accuracy"] = self.confusion.diagonal().sum() / self.confusion.sum()
        for name in ("iou", "dice"):
            for of, value in zip(self.of, found[name], strict=False):
                values[f"{name}_{of}"] = value
        return values


def confusions(masks: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Pixels of each image by true (rows) and predicted class, `(B, K, K)`, of masks `(B, H, W)`.

    Targets beyond the classes, such as VOID, do not count.
    """
    B, masks, targets = len(targets), masks.flatten(1).long(), targets.flatten(1).long()
    pairs = targets * classes + masks + classes**2 * torch.arange(B, device=masks.device)[:, None]
    counted = (targets >= 0) & (targets < classes)
    return torch.bincount(pairs[counted], minlength=B * classes**2).reshape(B, classes, classes)


def overlaps(confusion: Tensor) -> dict[str, Tensor]:
    """IoU and Dice `(…, K)` from a confusion matrix `(…, K, K)`; NaN for a class without pixels."""
    both = confusion.diagonal(dim1=-2, dim2=-1)
    areas = confusion.sum(dim=-1) + confusion.sum(dim=-2)
    return {"iou": both / (areas - both), "dice": 2 * both / areas}
