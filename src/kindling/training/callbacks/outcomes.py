"""Print why a training has one step an epoch, no validation, or fewer epochs than planned."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping
from torch.utils.data import DataLoader

from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule


class Outcomes(Callback):
    """Prints that an epoch is one batch, that validation never runs, or that no step was made."""

    def __init__(self) -> None:
        self.has_loss = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for note in filter(None, (_large_batch(trainer), _missing_validation(trainer))):
            print(note)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.has_loss = self.has_loss or bool(outputs) or not module.automatic_optimization

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.has_loss and not trainer.current_epoch and trainer.is_global_zero:
            problem = "training_step returned None for each batch of the epoch"
            print(f"task: {problem}, so no weight changed; return the loss")


def _large_batch(trainer: Trainer) -> str:
    data, loader = trainer.datamodule, trainer.train_dataloader  # type: ignore[attr-defined]
    size, samples = 0, 0
    if isinstance(data, DataModule):
        size, samples = data.batch_size, len(data.indices["train"])
    elif isinstance(loader, DataLoader) and isinstance(loader.dataset, Sized):
        size, samples = loader.batch_size or 0, len(loader.dataset)
    if size <= samples:
        return ""
    problem = f"{size:,} is above the {format_count(samples, 'training sample')}"
    return f"data.batch_size: {problem}, so each epoch is one step; set a smaller one"


def _missing_validation(trainer: Trainer) -> str:
    every, batches = trainer.check_val_every_n_epoch, trainer.num_training_batches
    within, steps = trainer.val_check_batch, trainer.estimated_stepping_batches
    if within is None or not trainer.enable_validation or math.inf in (batches, steps):
        return ""
    # Batches are counted over the whole training if `every` is None, else within an epoch.
    first = within + ((every or 1) - 1) * batches
    last = steps * trainer.accumulate_grad_batches
    if first <= last:
        return ""
    key, value = "check_val_every_n_epoch", str(every)
    if not every or every == 1:
        key, value = "val_check_interval", str(trainer.val_check_interval)
    due = f"it is due after batch {first:,}, and training ends after {last:,}"
    problem = f"with {value}, validation never runs ({due}), so there is no best.ckpt"
    return f"trainer.{key}: {problem}; set a smaller one"


def stop_reason(trainer: Trainer) -> str:
    """Why a training ended before its last epoch; an empty string if it did not."""
    epochs = trainer.current_epoch
    if not trainer.should_stop or epochs == trainer.max_epochs:
        return ""
    reason = "the task or a callback set trainer.should_stop"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0:
            reason = "trainer.max_time is reached"
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            message = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            reason = f"early stopping: {message}"
    return f"stopped after epoch {epochs} of {trainer.max_epochs}: {reason}"
