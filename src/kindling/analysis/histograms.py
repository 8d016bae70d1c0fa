"""How the weights and the gradients' norms of each layer are spread, every few epochs; in TensorBoard's histograms."""

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
    """Records the first ten epochs and every tenth part of a training, or every n-th epoch where that is told.

    Nothing is read from the device within an epoch: the norms of some tens of its steps wait there for its end. Biases
    and norms are left out, and of many layers some are chosen.

    Args:
        every: so many epochs lie between two that are recorded; 0 records none.

    Attributes:
        norms: of each layer's gradient, `(steps,)` by epoch and layer.
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.norms: dict[int, dict[str, Array]] = {}
        self.layers: dict[str, Parameter] = {}  # empty in an epoch that is not recorded
        self.stride = 1
        self.kept: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, every = trainer.current_epoch, self.every
        if every is None:  # a training that stops early is seen as well
            every = 1 if epoch < EPOCHS else max(1, (trainer.max_epochs or 0) // EPOCHS)
        self.layers, self.kept = {}, []
        if not every or epoch % every or not trainer.is_global_zero:
            return
        found = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad and p.ndim > 1 and p.numel()]
        self.layers = dict(found[i] for i in spread(len(found), LAYERS))
        batches = trainer.num_training_batches
        self.stride = (
            max(1, int(batches) // trainer.accumulate_grad_batches // STEPS) if math.isfinite(batches) else STEPS
        )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.layers and not trainer.global_step % self.stride and len(self.kept) < 2 * STEPS:
            grads = [p.grad if p.grad is not None else p.new_zeros(1) for p in self.layers.values()]
            self.kept.append(torch.stack(torch._foreach_norm(grads)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from src.kindling.analysis.layers import sampled_weights

        if not self.kept:
            return
        norms = torch.stack(self.kept).float().cpu().numpy()
        self.norms[trainer.current_epoch] = dict(zip(self.layers, norms.T, strict=True))
        weights = sampled_weights(pl_module, VALUES)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, found in self.norms[trainer.current_epoch].items():
                    for tag, values in ((f"weights/{name}", weights[name]), (f"gradient_norms/{name}", found)):
                        if len(finite := values[np.isfinite(values)]):
                            logger.experiment.add_histogram(tag, finite, trainer.global_step - 1, bins=40)
