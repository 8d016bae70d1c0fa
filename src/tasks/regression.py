"""Regression: one or several numbers, for images, tables and sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanAbsoluteError, Metric

from src.kindling.analysis import Values
from src.kindling.data import Spec, Standardize
from src.kindling.nn import Meter, RegressionScores, configure, with_extra

Batch = tuple[Tensor, Tensor]


class Regression(LightningModule):
    """Standardized input in, values in the unit of the target out.

    The loss is taken on standardized values. Metrics of several values are means over the values,
    and each value has its own as well: `mae`, `mae_height`, `mae_weight`.

    Args:
        net: maps `(B, *in_shape)` to standardized values `(B, num_outputs)`.
        spec: of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes standardized predictions and targets, each `(B, num_outputs)`.
        metrics: further torchmetrics by name, of predictions and targets in the target's unit.
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
        self.outputs = Values.of(spec)
        self.net = net
        mean, std = np.array([spec.target_mean, spec.target_std], spec.target_dtype)
        self.scale = Standardize(mean, std, dims=1)
        self.loss = loss or nn.MSELoss()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.decay_bias_and_norm = decay_bias_and_norm
        val = {"scores": RegressionScores(spec.names, spec.target_mean)}
        test = {"scores": RegressionScores(spec.names, spec.target_mean, baseline=True)}
        self.train_meter = Meter("train", {"mae": MeanAbsoluteError()})
        self.val_meter = Meter("val", with_extra(val, metrics))
        self.test_meter = Meter("test", with_extra(test, metrics))

    def forward(self, x: Tensor) -> Tensor:
        """Standardized input `(B, *in_shape)` to values `(B, num_outputs)` in the target's unit."""
        return self.scale.inverse(self.net(x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, self.train_meter)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.val_meter)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.test_meter)

    def _step(self, batch: Batch, meter: Meter) -> Tensor:
        x, y = batch
        standardized = self.net(x)
        target = self.scale(y).to(standardized.dtype)
        loss = meter.compute_loss(self.loss, standardized, target)
        meter.update(loss, self.scale.inverse(standardized), y)
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target` and `prediction`, each `(B, num_outputs)`."""
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
