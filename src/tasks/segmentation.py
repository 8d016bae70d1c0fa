"""Segmentation: a class for each pixel of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from src.kindling.analysis import Masks
from src.kindling.data import Spec
from src.kindling.nn import CrossEntropyDiceLoss, Meter, Overlap, configure, with_extra

Batch = tuple[Tensor, Tensor]


class Segmentation(LightningModule):
    """Standardized images in, logits of each pixel out.

    Args:
        net: maps images `(B, C, H, W)` to logits `(B, num_outputs, H, W)`.
        spec: of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes logits and masks `(B, H, W)` int64, in which -100 does not count; by default
            the sum of cross-entropy and Dice.
        metrics: further torchmetrics by name, of predicted and true masks `(B, H, W)`.
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
        metrics: dict[str, Metric] | None = None,
        decay_bias_and_norm: bool = True,
    ) -> None:
        super().__init__()
        self.outputs = Masks.of(spec)
        self.net = net
        self.loss = loss or CrossEntropyDiceLoss()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.decay_bias_and_norm = decay_bias_and_norm
        self.train_meter = Meter("train", {"overlap": Overlap(spec.classes, each=False)})
        self.val_meter = Meter("val", with_extra({"overlap": Overlap(spec.classes)}, metrics))
        self.test_meter = Meter("test", with_extra({"overlap": Overlap(spec.classes)}, metrics))

    def forward(self, x: Tensor) -> Tensor:
        """Standardized images `(B, C, H, W)` to logits `(B, num_outputs, H, W)`."""
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
        meter.update(loss, self.outputs.decode(logits), y)
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target` and `prediction`, each `(B, H, W)` uint8."""
        x, y = batch
        return {"target": self.outputs.to_mask(y), **self.outputs.columns(self(x))}

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.decay_bias_and_norm)
