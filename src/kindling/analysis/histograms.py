"""Histograms of weights and gradient norms in TensorBoard, every few epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from src.kindling.analysis.predictions import Array, spread

if TYPE_CHECKING:
    from torch.nn import Parameter

EPOCHS = 10  # the first ones are recorded, and about as many of the others, evenly spaced
STEPS = 32  # of an epoch, at least; at most twice as many
LAYERS = 12
VALUES = 2_000  # of each weight


class Histograms(Callback):
    """Record the first ten epochs and every tenth part of a training, or every n-th epoch.

    Norms stay on the device until the end of the epoch, so that no step waits for them. Biases
    and norms are left out; of many layers, evenly spaced ones are recorded.

    Args:
        every: epochs between two recorded ones; 0 records none.

    Attributes:
        norms: of each layer's gradient, `(steps,)` by epoch and layer.
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.norms: dict[int, dict[str, Array]] = {}
        self.layers: dict[str, Parameter] = {}  # empty in an epoch that is not recorded
        self.stride = 1
        self.buffer: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, every = trainer.current_epoch, self.every
        if every is None:  # the first epochs, since a training may stop early
            every = 1 if epoch < EPOCHS else max(1, (trainer.max_epochs or 0) // EPOCHS)
        self.layers, self.buffer = {}, []
        if not every or epoch % every or not trainer.is_global_zero:
            return
        named = [
            (name, parameter)
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1 and parameter.numel()
        ]
        self.layers = dict(named[i] for i in spread(len(named), LAYERS))
        batches, self.stride = trainer.num_training_batches, STEPS
        if math.isfinite(batches):
            steps = int(batches) // trainer.accumulate_grad_batches
            self.stride = max(1, steps // STEPS)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        due = self.layers and not trainer.global_step % self.stride
        if due and len(self.buffer) < 2 * STEPS:
            parameters = self.layers.values()
            grads = [p.new_zeros(1) if p.grad is None else p.grad for p in parameters]
            self.buffer.append(torch.stack(torch._foreach_norm(grads)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from src.kindling.analysis.layers import sample_weights

        if not self.buffer:
            return
        norms = torch.stack(self.buffer).float().cpu().numpy()
        self.norms[trainer.current_epoch] = dict(zip(self.layers, norms.T, strict=True))
        weights = sample_weights(pl_module, VALUES)
        values = {f"weights/{name}": weights[name] for name in self.layers}
        values |= {
            f"gradient_norms/{name}": row for name, row in zip(self.layers, norms.T, strict=True)
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for tag, array in values.items():
                    if len(finite := array[np.isfinite(array)]):
                        step = trainer.global_step - 1
                        logger.experiment.add_histogram(tag, finite, step, bins=40)
