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
    """Record the first ten epochs and every tenth part of a training.

    Norms stay on the device until the end of the epoch, so that no step waits for them. Biases
    and norms are left out; of many layers, evenly spaced ones are recorded.

    Attributes:
        norms: of each layer's gradient, `(steps,)` by epoch and layer.
    """

    def __init__(self) -> None:
        self.norms: dict[int, dict[str, Array]] = {}
        self.layers: dict[str, Parameter] = {}  # empty in an epoch that is not recorded
        self.stride = 1
        self.buffer: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.layers, self.buffer = {}, []
        epoch = trainer.current_epoch
        every = max(1, (trainer.max_epochs or 0) // EPOCHS)
        due = epoch < EPOCHS or not epoch % every  # the first epochs, since it may stop early
        if not due or not trainer.is_global_zero:
            return
        weights = [(k, p) for k, p in _weights(pl_module) if p.requires_grad]
        self.layers = dict(weights[i] for i in spread(len(weights), LAYERS))
        batches, self.stride = trainer.num_training_batches, STEPS
        if math.isfinite(batches):
            steps = int(batches) // trainer.accumulate_grad_batches
            self.stride = max(1, steps // STEPS)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        due = self.layers and not trainer.global_step % self.stride
        if due and len(self.buffer) < 2 * STEPS:
            grads = [p.new_zeros(1) if p.grad is None else p.grad for p in self.layers.values()]
            self.buffer.append(torch.stack([grad.norm() for grad in grads]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.buffer:
            return
        rows = torch.stack(self.buffer).float().cpu().numpy()
        norms = self.norms[trainer.current_epoch] = dict(zip(self.layers, rows.T, strict=True))
        weights = sample_weights(pl_module, VALUES)
        boards = [board for board in trainer.loggers if isinstance(board, TensorBoardLogger)]
        for name in self.layers:
            for kind, values in (("weights", weights[name]), ("gradient_norms", norms[name])):
                for board in boards:
                    if len(finite := values[np.isfinite(values)]):
                        step = trainer.global_step - 1
                        board.experiment.add_histogram(f"{kind}/{name}", finite, step, bins=40)


def sample_weights(task: LightningModule, most: int = 20_000) -> dict[str, Array]:
    """Return evenly spaced values of each weight; biases and norms are left out."""
    sampled = {}
    for name, parameter in _weights(task):
        values = parameter.detach().flatten()[:: -(-parameter.numel() // most)]
        sampled[name] = values.float().cpu().numpy().copy()
    return sampled


def _weights(task: LightningModule) -> list[tuple[str, Parameter]]:
    return [(name, p) for name, p in task.named_parameters() if p.ndim > 1 and p.numel()]
