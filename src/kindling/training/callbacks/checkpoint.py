"""The run's checkpoints: when best.ckpt and last.ckpt are saved, and their content."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from torch import Tensor

from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from src.kindling.runs.checkpoint_file import VERSION, keep_previous
from src.kindling.runs.redact import redacted
from src.kindling.runs.signals import Interrupts
from src.kindling.training import epoch_state
from src.kindling.training.callbacks.nonfinite_guard import NonFiniteGuard
from src.kindling.training.epoch_state import Place
from src.kindling.training.lightning_internals import (
    end_restart,
    is_accumulating,
    is_last_batch,
    is_validation_due,
    skips_backward,
)
from src.kindling.training.resume_state import ResumeState, apply_config, drop_optimizer_state

HYPERPARAMETERS = (
    LightningModule.CHECKPOINT_HYPER_PARAMS_KEY,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY,
)
# The content of best.ckpt: enough to use the task, not to resume training. The hyperparameters
# with their names are what plain Lightning's `load_from_checkpoint` reads.
OF_BEST = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "kindling",
    *HYPERPARAMETERS,
    LightningModule.CHECKPOINT_HYPER_PARAMS_NAME,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_NAME,
)


class Checkpoint(lightning.Checkpoint):
    """Saves best.ckpt after each validation that improves the monitored value, and last.ckpt.

    last.ckpt is saved between epochs, every few minutes after a step, and when a signal stops the
    training; the file before it is kept as previous.ckpt. A save "after a step" never falls between
    accumulated gradients, on an epoch's last batch, or where a validation is due: resumed there,
    Lightning would leave out what follows. The files hold tensors and plain values only.

    Args:
        folder: of the files.
        config: the experiment.
        spec: of its data, if it is Kindling's.
        monitor, mode: the monitored value and its direction; None saves no best.ckpt.
        attributes: the values of `${data.…}` in the config.
        minutes: between saves within an epoch.
        interrupts: received signals.
        resume_state: of a resumed training.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        spec: Spec | None,
        monitor: str | None,
        mode: str,
        minutes: float = 10.0,
        attributes: dict[str, Any] | None = None,
        interrupts: Interrupts | None = None,
        resume_state: ResumeState | None = None,
    ) -> None:
        self.best = folder / "best.ckpt"
        self.last = folder / "last.ckpt"
        self.previous = folder / "previous.ckpt"
        self.content = {
            "version": VERSION,
            "name": config.name,
            "config": redacted(config.values),
            "spec": dataclasses.asdict(spec) if spec else {},
            "attributes": attributes or {},
        }
        self.monitor, self.mode, self.minutes = monitor, mode, minutes
        self.interrupts = interrupts or Interrupts()
        self.resume_state = resume_state
        self.best_score: Tensor | None = None
        self.saved_at = time.monotonic()
        self.saved_step = -1
        self.saved_last = False  # whether this process has taken part in saving last.ckpt
        # With weight averaging: the weights that are trained, not their average.
        self.trained_weights: dict[str, Tensor] | None = None
        self.failed_in: str | None = None  # `train`, `val` or `test`
        self.saving: Place | Literal["best"] = "between epochs"

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint. Lightning's own property builds it around every hook."""
        return "Checkpoint"

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    # -----------------------------------------------------------------------------------------
    # When to save, and when to stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_signals()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        if self.resume_state:
            self._restore(trainer, pl_module, self.resume_state)
            self.resume_state = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self.saved_step:
            self._save(trainer, "between epochs")
        self._stop_on_signal(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        late = time.monotonic() - self.saved_at > 60 * self.minutes
        due = late or self.interrupts.received is not None
        if trainer.world_size == 1 and not due:
            return  # in nearly every step; the conditions below take longer
        if is_accumulating(trainer) or is_last_batch(trainer) or is_validation_due(trainer):
            return
        if self._reduce(trainer, due)[0]:
            self._save(trainer, "after a step")
            self._stop_on_signal(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_signals()
        self._stop_before_validation(trainer)

    # A validation may be long. With several ranks, each may have another number of batches.
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            self._stop_before_validation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_signals()

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_on_signal(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or self.monitor is None:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise InputError(
                f"monitor: '{self.monitor}' was not logged in validation (logged: {names}); "
                "set monitor=…"
            )
        self.compare(trainer, score)

    def compare(self, trainer: Trainer, score: Tensor) -> None:
        """Save the current weights as best.ckpt if their score is the best so far."""
        better = self.best_score is None or (
            score < self.best_score if self.mode == "min" else score > self.best_score
        )
        if better and torch.isfinite(score):
            self.best_score = score.detach().clone().cpu()
            self._save(trainer, "best")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end_restart(trainer)
        if any(isinstance(callback, lightning.WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            # The average replaces the weights when training ends; a longer training needs them.
            state = pl_module.state_dict()
            self.trained_weights = {name: value.clone() for name, value in state.items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "between epochs")
        self._stop_on_signal(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.state.stage is not None:  # Lightning resets it before `fit` returns
            self.failed_in = trainer.state.stage.dataloader_prefix

    def _install_signals(self) -> None:
        """Replace Lightning's signal handlers, which end a test with status 0."""
        if self.interrupts.before:
            self.interrupts.install()
            self.interrupts.watched = True

    def _stop_before_validation(self, trainer: Trainer) -> None:
        if trainer.state.fn != "fit":
            self._stop_on_signal(trainer)
        elif not is_accumulating(trainer):
            signaled, _ = self._reduce(trainer, self.interrupts.received is not None)
            if signaled:
                self._save(trainer, "before validation")
                self._stop_on_signal(trainer)

    def _stop_on_signal(self, trainer: Trainer) -> None:
        received = self.interrupts.received
        if trainer.state.fn == "fit":
            received = self._reduce(trainer, False)[1]
        if received is not None:
            self.interrupts.received = received
            self.interrupts.stop()

    def _reduce(self, trainer: Trainer, flag: bool) -> tuple[bool, int | None]:
        """Return whether the flag is set on any rank, and the signal that any rank has received.

        The result is the same on all ranks. A signal that arrives meanwhile counts next time.
        """
        received = self.interrupts.received
        if trainer.world_size == 1:
            return flag, received
        device = trainer.strategy.root_device
        flags = torch.tensor([float(flag), float(received or 0)], device=device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        any_flag, signal = flags.tolist()  # one synchronization with a GPU
        return bool(any_flag), int(signal) or None

    # -----------------------------------------------------------------------------------------
    # What to save and to restore

    def _save(self, trainer: Trainer, saving: Place | Literal["best"]) -> None:
        module = trainer.lightning_module
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, NonFiniteGuard):
                callback.check_pending(module)
        weights = [value for value in module.state_dict().values() if value.is_floating_point()]
        if not all(bool(value.isfinite().all()) for value in weights):
            print(f"checkpoint: NaN/Inf weights at step {trainer.global_step}; not saved")
            return
        self.saving = saving
        if saving == "best":
            trainer.save_checkpoint(self.best)
            return
        if skips_backward(trainer):
            return  # StochasticWeightAveraging's last epoch is repeated as a whole
        if trainer.is_global_zero:
            keep_previous(self.last, self.previous)
        trainer.save_checkpoint(self.last)
        self.saved_last = True
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["kindling"] = dict(self.content)
        for key in HYPERPARAMETERS:
            if key in checkpoint:
                checkpoint[key] = redacted(checkpoint[key])
        if self.saving == "best":
            for key in set(checkpoint) - set(OF_BEST):
                del checkpoint[key]
            return
        between = self.saving == "between epochs"
        if between and self.trained_weights and "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = self.trained_weights
        checkpoint["kindling"]["resume"] = epoch_state.collect(trainer, pl_module, self.saving)
        epoch_state.set_loop_progress(checkpoint["loops"]["fit_loop"], self.saving)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.resume_state and self.resume_state.changed:
            drop_optimizer_state(checkpoint, self.content["config"])

    def _restore(self, trainer: Trainer, module: LightningModule, state: ResumeState) -> None:
        """Restore the state that Lightning does not restore."""
        saved = state.content["kindling"]
        epoch_state.restore(trainer, module, saved["resume"])
        if state.changed:
            before = get(saved["config"], "task.optimizer")
            now = get(self.content["config"], "task.optimizer")
            apply_config(trainer, module, saved["resume"]["epoch"], keep_lr=before == now)
