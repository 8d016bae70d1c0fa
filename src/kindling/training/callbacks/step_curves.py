"""The curves within an epoch: the loss and the learning rate every few steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Curves(Callback):
    """Logs the batch's loss and the learning rate every `trainer.log_every_n_steps` steps.

    Reading a value synchronizes with the device, so it is not done in every step. Under DDP the
    loss is that of rank 0's batch.
    """

    def __init__(self) -> None:
        self.logged = 0
        self.lr = 0.0

    # The rate of the step itself: by a batch's end, its schedule may have moved on.
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self.logged or not every or step % every or not trainer.is_global_zero:
            return
        self.logged = step
        values = (
            {"train/batch_loss": float(outputs["loss"])}
            if isinstance(outputs, dict) and "loss" in outputs
            else {}
        )
        values |= {"lr": self.lr, "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(
                values, step=step - 1
            )  # the step under way, counted as Lightning counts an epoch's
