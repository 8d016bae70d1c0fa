"""Segmentation: a class for each pixel of an image."""

from __future__ import annotations

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

from src.kindling.config.errors import InputError
from src.kindling.data.batch import Batch, BatchTransform
from src.kindling.data.masks import VOID
from src.kindling.data.preprocess import preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.dice import IGNORED, CrossEntropyDiceLoss
from src.kindling.nn.meter import Meter, plain_names
from src.kindling.nn.optimizers import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.kindling.analysis.predictions import Array, Predictions


class Segmentation(LightningModule):
    """Raw images in, logits of each pixel out; trained on a loss over logits and masks of class numbers.

    Args:
        net: maps standardized images `(B, C, H, W)` to logits `(B, num_outputs, H, W)`.
        spec: what is known of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes logits and masks `(B, H, W)` int64, in which -100 stands for what does not count; left out, the sum
            of cross-entropy and Dice.
        metrics: further torchmetrics by name, taking predicted and true masks `(B, H, W)`, -100 in the true ones.
        augment: random transforms of training batches, after preprocessing; filled in from the data.
        decay_all: False exempts biases and norms from weight decay.
        monitor: what picks the best checkpoint, stops early and steers schedules and studies.
        mode: whether less or more of it is better; a config that sets `monitor` may leave it out (training/monitor.py).

    Raises:
        InputError: when the data are of another kind.
    """

    answers, scored = "probability", "iou"

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        optimizer: Callable[[Any], Optimizer] = AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
        augment: Sequence[BatchTransform] = (),
        decay_all: bool = True,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        super().__init__()
        if spec.predicts != "mask":
            what = "one class for a sample" if spec.predicts == "class" else spec.predicts
            raise InputError(f"task: Segmentation needs masks, and the data has {what}; try task=auto")
        if mixing := [type(transform).__name__ for transform in augment if transform.mixes]:
            raise InputError(f"data.train_transforms: {mixing[0]} blends targets, and the classes of a mask cannot be "
                             "blended; leave it out")  # fmt: skip
        self.spec, self.out_shape = spec, (spec.num_outputs, *spec.target_shape)
        self.preprocess = preprocess(spec, net)
        self.augment = nn.ModuleList(augment)
        self.net = net
        self.loss = loss or CrossEntropyDiceLoss()
        self.optimizer, self.scheduler, self.decay_all = optimizer, scheduler, decay_all
        self.monitor, self.mode = monitor, mode
        extra = metrics or {}
        if "overlap" in extra:
            raise InputError("task.metrics.overlap: the name is taken by a metric of the task; choose another")
        self.train_meter = Meter("train", {"overlap": Overlap(spec.classes, each=False)})
        self.val_meter = Meter("val", {"overlap": Overlap(spec.classes), **extra})
        self.val_meter.has(monitor)
        self.test_meter = Meter("test", {"overlap": Overlap(spec.classes), **extra})

    def forward(self, x: Tensor) -> Tensor:
        """Raw images `(B, C, H, W)` to logits `(B, num_outputs, H, W)`."""
        logits: Tensor = self.net(self.preprocess(x))
        return logits

    def targets(self, y: Tensor) -> Tensor:
        """A batch's masks as the loss takes them."""
        return y.long().masked_fill(y == VOID, IGNORED)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        x, y = self.preprocess(batch.x), batch.y
        for transform in self.augment:
            x, y = transform(x, y)
        logits, targets = self.net(x), self.targets(y)
        loss: Tensor = self.loss(logits, targets)
        self.train_meter.update(loss, self.decide(logits), targets)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        logits, targets = self(batch.x), self.targets(batch.y)
        self.val_meter.update(self.loss(logits, targets), self.decide(logits), targets)

    def test_step(self, batch: Batch, _: int) -> None:
        logits, targets = self(batch.x), self.targets(batch.y)
        self.test_meter.update(self.loss(logits, targets), self.decide(logits), targets)

    def predict_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        """Columns: `index` `(B,)`, `target` and `prediction` `(B, H, W)` uint8."""
        return {"index": batch.index, "target": batch.y, "prediction": self.decide(self(batch.x))}

    def answer(self, x: Tensor) -> Tensor:
        """Raw images to each pixel's class probabilities, `(B, num_outputs, H, W)`: what a user gets."""
        logits: Tensor = self(x)
        return logits.softmax(dim=1)

    def decide(self, answer: Tensor) -> Tensor:
        """The masks `(B, H, W)` uint8 that an answer, or logits, come to."""
        return answer.argmax(dim=1).to(torch.uint8)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Each image's IoU, the mean over the classes that it shows or is said to show, `(B,)`; from masks or answers."""
        masks = self.decide(outputs) if outputs.ndim == 4 else outputs
        return overlaps(confusions(masks, targets, self.spec.num_outputs))["iou"].nanmean(dim=1).nan_to_num(1.0)

    def trivial(self) -> Tensor:
        """What is answered by who knows the training masks alone: everywhere the class of most pixels."""
        counts = torch.tensor(self.spec.class_counts)
        return counts.argmax().to(torch.uint8).expand(self.spec.target_shape)

    def rows(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Array]:
        """A readable table of the columns of `predict_step`: the masks, and the share of pixels of each class."""
        masks = columns["prediction"]
        shares = {name: (masks == i).float().mean(dim=(1, 2)).numpy() for i, name in enumerate(self.spec.classes)}
        return {"prediction": masks.numpy(), **{f"share_{name}": share for name, share in shares.items()}}

    def figures(self, predictions: Predictions) -> dict[str, Figure]:
        """Pictures by name, from the columns of `predict_step`."""
        from src.kindling.analysis import figures, figures_of_classes, figures_of_masks

        if not len(predictions):
            return {}
        names = self.spec.classes
        counts = self._confusion(predictions)
        worst = predictions.take(np.argsort(predictions["score"], kind="stable")[: figures.SAMPLES // 2])
        return {
            "confusion": figures_of_classes.confused(counts, names, "pixels"),
            "overlap": figures_of_masks.overlap(counts, names),
            "worst": figures_of_masks.samples(worst, "Lowest IoU"),
            "examples": self.examples(predictions),
        }

    def _confusion(self, predictions: Predictions) -> Array:
        """How many pixels of each class were taken for which, over all images `(K, K)`; some images at a time."""
        counts = np.zeros((self.spec.num_outputs,) * 2, dtype=np.int64)
        for start in range(0, len(predictions), 64):
            masks, targets = (
                torch.from_numpy(predictions[name][start : start + 64]) for name in ("prediction", "target")
            )
            counts += confusions(masks, targets, len(counts)).sum(dim=0).numpy()
        return counts

    def examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Some images under their masks, true and predicted; beside them what was predicted `before`."""
        from src.kindling.analysis import figures_of_masks
        from src.kindling.analysis.figures import SAMPLES
        from src.kindling.analysis.predictions import spread

        rows = spread(len(predictions), SAMPLES // 2)
        title = "Examples" if before is None else "Before and after training"
        return figures_of_masks.samples(predictions.take(rows), title, before and before.take(rows))

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.monitor, self.mode, self.decay_all)


class Overlap(Metric):
    """IoU and Dice, the means over the classes that occur and for each class, and the share of right pixels.

    Over all pixels together: of a batch, only how many pixels of each class were taken for which are kept.

    Args:
        names: of the classes.
        each: whether each class has numbers of its own, `iou_<class>` and `dice_<class>`; NaN where none occurs.
    """

    confusion: Tensor

    def __init__(self, names: Sequence[str], each: bool = True) -> None:
        super().__init__()
        self.classes, self.of = len(names), plain_names(names) if each else []
        self.names = ["iou", "dice", "pixel_accuracy", *(f"{name}_{of}" for name in ("iou", "dice") for of in self.of)]
        self.add_state("confusion", torch.zeros(self.classes, self.classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, masks: Tensor, targets: Tensor) -> None:
        self.confusion += confusions(masks, targets, self.classes).sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        found = overlaps(self.confusion)
        values = {name: found[name].nanmean() for name in ("iou", "dice")}
        values["pixel_accuracy"] = self.confusion.diagonal().sum() / self.confusion.sum()
        for name in ("iou", "dice"):
            values |= {f"{name}_{of}": value for of, value in zip(self.of, found[name], strict=False)}
        return values


def confusions(masks: Tensor, targets: Tensor, classes: int) -> Tensor:
    """For each image how many pixels of each true class (rows) were taken for which, `(B, K, K)`.

    Args:
        masks: predicted, `(B, H, W)`.
        targets: true; pixels beyond the classes, such as VOID, do not count.
        classes: K.
    """
    B, masks, targets = len(targets), masks.flatten(1).long(), targets.flatten(1).long()
    pairs = targets * classes + masks + classes**2 * torch.arange(B, device=masks.device)[:, None]
    counted = (targets >= 0) & (targets < classes)
    return torch.bincount(pairs[counted], minlength=B * classes**2).reshape(B, classes, classes)


def overlaps(confusion: Tensor) -> dict[str, Tensor]:
    """IoU and Dice of each class `(…, K)` from pixels `(…, K, K)`; NaN where a class neither is nor is predicted."""
    both = confusion.diagonal(dim1=-2, dim2=-1)
    areas = confusion.sum(dim=-1) + confusion.sum(dim=-2)
    return {"iou": both / (areas - both), "dice": 2 * both / areas}
