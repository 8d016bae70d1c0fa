"""The run's checkpoints: when best.ckpt and last.ckpt are saved, and their content."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from torch import Tensor

from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from src.kindling.runs.checkpoint_file import VERSION, keep_previous
from src.kindling.runs.files import display_path
from src.kindling.runs.redact import redacted
from src.kindling.runs.signals import Interrupts
from src.kindling.training import epoch_state
from src.kindling.training import lightning_internals as internals
from src.kindling.training.loaders import Loaders
from src.kindling.training.resume import ResumeState, apply_config, drop_optimizer_state
from src.kindling.training.trained_run import unsaved_buffers

HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
# The content of best.ckpt: enough to use the task, also by Lightning's `load_from_checkpoint`, but
# not to resume training.
HEADER = ("epoch", "global_step", "pytorch-lightning_version", "kindling")
NAMES = ("hparams_name", "datamodule_hparams_name")
TYPES = ("hparams_type", "datamodule_hparams_type")  # classes, of OmegaConf's configs only
OF_BEST = (*HEADER, "state_dict", *HYPERPARAMETERS, *NAMES, *TYPES)


class Checkpoint(lightning.Checkpoint):
    """Saves best.ckpt after each validation that improves the monitored value, and last.ckpt.

    last.ckpt is saved between epochs, every few minutes after a step, and when a signal stops the
    training; the file before it is kept as previous.ckpt. The files hold tensors and plain values.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        spec: Spec | None,
        monitor: str | None,  # None saves no best.ckpt
        mode: str,
        loaders: Loaders,
        minutes: float = 10.0,  # between saves within an epoch
        attributes: dict[str, Any] | None = None,  # the values of `${data.…}` in the config
        interrupts: Interrupts | None = None,
        resume_state: ResumeState | None = None,
    ) -> None:
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.content = {
            "version": VERSION,
            "name": config.name,
            "config": redacted(config.values),
            "spec": dataclasses.asdict(spec) if spec else {},
            "attributes": attributes or {},
        }
        self.monitor, self.mode, self.minutes = monitor, mode, minutes
        self.loaders = loaders
        self.interrupts, self.resume_state = interrupts or Interrupts(), resume_state
        self.best_score: Tensor | None = None
        self.buffers: dict[str, Tensor] = {}  # that the state dict lacks, before the training
        self.saved_at, self.saved_step = time.monotonic(), -1
        self.saved_last = False  # whether this process took part in saving last.ckpt
        # With weight averaging: the weights that are trained, not their average.
        self.trained_weights: dict[str, Tensor] | None = None
        self.failed_in: str | None = None  # `train`, `val` or `test`
        self.saving: epoch_state.Place | Literal["best"] = "between epochs"
        self.before_validation: dict[str, Any] | None = None  # a resume state
        self.resumed_weights: list[Tensor] = []

    # What modules read from `self.trainer.checkpoint_callback`, in general Lightning's own.
    @property
    def dirpath(self) -> str:
        return str(self.best.parent)

    @property
    def best_model_path(self) -> str:
        return "" if self.best_score is None else str(self.best)

    @property
    def best_model_score(self) -> Tensor | None:
        return self.best_score

    @property
    def last_model_path(self) -> str:
        return str(self.last) if self.saved_last else ""

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        now = self.state_dict()
        if all(state_dict.get(key, now[key]) == now[key] for key in ("monitor", "mode")):
            self.best_score = state_dict["best_score"]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        unsaved = unsaved_buffers(module).items()
        self.buffers = {name: buffer.to("cpu", copy=True) for name, buffer in unsaved}
        if self.resume_state:
            self.resumed_weights = [weight.detach().cpu().clone() for weight in _weights(module)]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._install_signals()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        # The module's own hook may reset what is restored.
        internals.after_each_batch(trainer, lambda: self._save_if_due(trainer))
        hook, attributes = module.on_train_start, self.loaders.resumed_attributes()

        def then_restore() -> None:
            hook()
            self._restore(trainer, module, attributes)

        module.on_train_start = then_restore  # type: ignore[method-assign]

    def _restore(
        self, trainer: Trainer, module: LightningModule, attributes: dict[str, Any]
    ) -> None:
        if state := self.resume_state:
            saved = state.content["kindling"]
            with torch.no_grad():
                for weight, resumed in zip(_weights(module), self.resumed_weights, strict=True):
                    weight.copy_(resumed)
            self.resumed_weights = []
            epoch_state.restore(trainer, module, saved["resume"], state.restarted)
            self.loaders.attributes.restore(attributes)
            if state.changed:
                before = get(saved["config"], "task.optimizer")
                keep_lr = before == get(self.content["config"], "task.optimizer")
                apply_config(trainer, module, saved["resume"]["epoch"], keep_lr)
            self.resume_state = None

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > self.saved_step:
            self._save(trainer, "between epochs")
        self._stop_on_signal(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        late = time.monotonic() - self.saved_at > 60 * self.minutes
        due = late or self.interrupts.received is not None
        take_part = due or trainer.world_size > 1
        if take_part and internals.is_resumable(trainer) and _any_rank(trainer, due):
            self._save(trainer, "after a step")
            self._stop_on_signal(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._install_signals()
        if trainer.state.fn == "fit" and trainer.world_size == 1:
            # A validation that a signal ends is repeated as a whole, metrics and logs included.
            self.before_validation = self._collect(trainer, module, "before validation")
        self._stop_before_validation(trainer)

    # A validation may be long. With several ranks, each may have another number of batches.
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            self._stop_before_validation(trainer)

    def on_test_start(self, *_: Any) -> None:
        self._install_signals()

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_on_signal(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.before_validation = None
        if trainer.state.fn != "fit" or self.monitor is None:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            problem = f"'{self.monitor}' was not logged in validation (logged: {names})"
            raise InputError(f"monitor: {problem}; set monitor=…")
        self.compare(trainer, score)

    def compare(self, trainer: Trainer, score: Tensor) -> None:
        """Save the current weights as best.ckpt if their score is the best so far."""
        best = self.best_score
        better = best is None or (score < best if self.mode == "min" else score > best)
        # Ranks log different values without `sync_dist`, and have to save together.
        if trainer.strategy.broadcast(bool(better and torch.isfinite(score))):
            self.best_score = score.detach().clone().cpu()
            self._save(trainer, "best")

    def explain_missing_best(self, trainer: Trainer) -> str:
        """Why there is no best checkpoint after a training with a monitor."""
        if self.best_score is not None:
            return f"{display_path(self.best)} was deleted"
        if self.monitor in trainer.callback_metrics:
            return f"{self.monitor} was never a finite number"
        return "validation never ran"

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        internals.end_restart(trainer)
        if any(isinstance(callback, lightning.WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            # The average replaces the weights when training ends; a longer training needs them.
            state = module.state_dict()
            self.trained_weights = {name: value.clone() for name, value in state.items()}

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        vars(module).pop("on_train_start", None)
        self._save(trainer, "between epochs")
        self._stop_on_signal(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
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
            return
        signaled = self.interrupts.received is not None
        if not internals.is_accumulating(trainer) and _any_rank(trainer, signaled):
            self._save(trainer, "before validation")
            self._stop_on_signal(trainer)

    def _stop_on_signal(self, trainer: Trainer) -> None:
        """Stop if any rank has received a signal; one that arrives meanwhile counts next time."""
        signal = self.interrupts.received
        if trainer.state.fn == "fit" and trainer.world_size > 1:
            number = torch.tensor(signal or 0, device=trainer.strategy.root_device)
            signal = int(trainer.strategy.reduce(number, reduce_op="max"))
        if signal:
            self.interrupts.received = signal
            self.interrupts.stop()

    def _save(self, trainer: Trainer, saving: epoch_state.Place | Literal["best"]) -> None:
        weights = trainer.lightning_module.state_dict().values()
        floats = [w for w in weights if isinstance(w, Tensor) and w.is_floating_point()]
        if not all(weight.isfinite().all() for weight in floats):
            print(f"checkpoint: NaN/Inf weights at step {trainer.global_step}; not saved")
            return
        self.saving = saving
        if saving == "best":
            trainer.save_checkpoint(self.best)
            return
        if internals.skips_backward(trainer):
            return  # StochasticWeightAveraging's last epoch is repeated as a whole
        if trainer.is_global_zero:
            keep_previous(self.last, self.last.with_name("previous.ckpt"))
        trainer.save_checkpoint(self.last)
        self.saved_last = True
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["kindling"] = dict(self.content)
        for key in checkpoint.keys() & set(HYPERPARAMETERS):
            checkpoint[key] = redacted(checkpoint[key])
        for key in checkpoint.keys() & set(TYPES):
            checkpoint[key] = "AttributeDict"  # Lightning loads a name as this, and no class
        checkpoint["kindling"]["buffers"] = {
            name: buffer
            for name, buffer in unsaved_buffers(module).items()
            if name not in self.buffers or not torch.equal(buffer.cpu(), self.buffers[name])
        }
        if self.saving == "best":
            for key in checkpoint.keys() - set(OF_BEST):
                del checkpoint[key]
            return
        between = self.saving == "between epochs"
        if between and self.trained_weights and "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = self.trained_weights
        resume = None if self.saving != "before validation" else self.before_validation
        checkpoint["kindling"]["resume"] = resume or self._collect(trainer, module, self.saving)
        epoch_state.set_loop_progress(checkpoint["loops"]["fit_loop"], self.saving)

    def _collect(
        self, trainer: Trainer, module: LightningModule, place: epoch_state.Place
    ) -> dict[str, Any]:
        return epoch_state.collect(trainer, module, place, self.loaders.collect)

    def on_load_checkpoint(self, _: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        self.loaders.checkpoint = checkpoint
        if self.resume_state and self.resume_state.changed:
            drop_optimizer_state(checkpoint, self.content["config"])
        if self.resume_state and self.resume_state.restarted:
            epoch_state.set_loop_progress(checkpoint["loops"]["fit_loop"], "between epochs")


def _weights(module: LightningModule) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _any_rank(trainer: Trainer, flag: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(flag, all=False)
