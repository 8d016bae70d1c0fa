"""Classification: one class out of several, for images, tables and sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from src.kindling.analysis import Classes
from src.kindling.data import Spec
from src.kindling.nn import Meter, configure, multiclass_metrics, weigh_classes, with_extra

Batch = tuple[Tensor, Tensor]


class Classification(LightningModule):
    """Standardized input in, logits out; trained on a loss over logits and class numbers.

    Precision, recall and F1 of two classes are those of the second one, the positive class.

    Args:
        net: maps `(B, *in_shape)` to logits `(B, num_outputs)`.
        spec: of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes logits `(B, num_outputs)` and class numbers `(B,)`.
        class_weights: `balanced` weighs each class in the loss by the inverse of its share of the
            training split.
        metrics: further torchmetrics by name, of probabilities `(N, num_outputs)` and class
            numbers.
        decay_bias_and_norm: False exempts biases and norms from weight decay.

    Raises:
        InputError: when the data has another kind of target.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        optimizer: Callable[[Any], Optimizer] = AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss: nn.Module | None = None,
        class_weights: Literal["balanced"] | None = None,
        metrics: dict[str, Metric] | None = None,
        decay_bias_and_norm: bool = True,
    ) -> None:
        super().__init__()
        self.outputs = Classes.of(spec)
        self.net = net
        self.loss = loss or nn.CrossEntropyLoss()
        self.notes = [weigh_classes(self.loss, spec)] if class_weights else []
        if spec.num_outputs == 2:
            name = self.outputs.names[1]
            self.notes.append(f"positive class of precision, recall and f1: {name}")
        self.optimizer, self.scheduler = optimizer, scheduler
        self.decay_bias_and_norm = decay_bias_and_norm
        accuracy = {"accuracy": MulticlassAccuracy(spec.num_outputs, average="micro")}
        self.train_meter = Meter("train", accuracy, self.outputs.predict_proba)
        self.val_meter = self._meter("val", metrics)
        self.test_meter = self._meter("test", metrics)

    def _meter(self, stage: str, extra: dict[str, Metric] | None) -> Meter:
        metrics = with_extra(multiclass_metrics(self.outputs.names), extra)
        return Meter(stage, metrics, self.outputs.predict_proba)

    def forward(self, x: Tensor) -> Tensor:
        """Standardized input `(B, *in_shape)` to logits `(B, num_outputs)`."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, self.train_meter)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.val_meter)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.test_meter)

    def _step(self, batch: Batch, meter: Meter) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = meter.compute_loss(self.loss, logits, y)
        # MixUp and CutMix make shares of the classes, (B, num_outputs).
        meter.update(loss, logits, y if y.ndim == 1 else y.argmax(dim=1))
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target` and `prediction` `(B,)`, `probability` `(B, num_outputs)`."""
        x, y = batch
        return {"target": y, **self.outputs.columns(self(x))}

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.decay_bias_and_norm)
