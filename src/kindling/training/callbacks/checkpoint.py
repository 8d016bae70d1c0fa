"""The run's checkpoints: when they are saved, and how a training goes on from one to the last digit."""

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
from src.kindling.nn.meter import Meter
from src.kindling.runs.checkpoint_file import keep_previous
from src.kindling.runs.redact import redacted
from src.kindling.runs.signals import Interrupts
from src.kindling.training import epoch_state
from src.kindling.training.callbacks.nonfinite_guard import Guard
from src.kindling.training.resume import FORM, Saved, forget, renew

# The places where a training can be saved and go on as if nothing had been.
Place = Literal["between epochs", "after a step", "before validation"]
# What best.ckpt holds: enough to use the task, not to go on training it.
HYPERPARAMETERS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY)
OF_BEST = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "kindling",
    *HYPERPARAMETERS,  # with their names, what `load_from_checkpoint` of plain Lightning asks for
    LightningModule.CHECKPOINT_HYPER_PARAMS_NAME,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_NAME,
)


class Checkpoint(lightning.Checkpoint):
    """Saves best.ckpt after each validation that is the best so far, and last.ckpt where the training can go on from.

    last.ckpt is saved between epochs, every few minutes after a step, and when a signal asks the training to stop;
    the one before it stays as previous.ckpt. "After a step" is never in the middle of accumulated gradients, nor on an
    epoch's last batch, nor where a validation is due: Lightning would leave out what comes next when it goes on there.
    The files hold tensors and plain values only, the config and the spec among them.

    Args:
        folder: where the files go.
        config: the experiment.
        spec: of its data.
        monitor, mode: what is best, as the task says.
        minutes: how often to save within an epoch.
        interrupts: the signals to look for.
        saved: what this training goes on from.
    """

    def __init__(
        self, folder: Path, config: Config, spec: Spec, monitor: str, mode: str, minutes: float = 10.0,
        interrupts: Interrupts | None = None, saved: Saved | None = None,
    ) -> None:  # fmt: skip
        self.best, self.last, self.previous = (folder / f"{name}.ckpt" for name in ("best", "last", "previous"))
        self.content = {"name": config.name, "config": redacted(config.values), "spec": dataclasses.asdict(spec)}
        self.monitor, self.mode, self.minutes = monitor, mode, minutes
        self.interrupts = interrupts or Interrupts()
        self.saved = saved
        self.best_score: Tensor | None = None
        self.saved_at = time.monotonic()
        self.saved_step = -1
        self.trained: dict[str, Tensor] | None = None  # where weights are averaged: those that training goes on with
        self.failed_in: str | None = None  # `train`, `val` or `test`
        self.saving: Place | Literal["best"] = "between epochs"

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint. Lightning asks for it around every hook, and would make it anew each time."""
        return "Checkpoint"

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    # -----------------------------------------------------------------------------------------------------------
    # When

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch()
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        if self.saved:
            self._restore(trainer, pl_module, self.saved)
            self.saved = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self.saved_step:
            self._save(trainer, "between epochs")
        self._stop_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        here = time.monotonic() - self.saved_at > 60 * self.minutes or self.interrupts.received is not None
        if trainer.world_size == 1 and not here:
            return  # as in nearly every step; what follows asks Lightning's loops much
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or loop._num_ready_batches_reached() or self._validation_is_due(trainer):
            return
        if self._agreed(trainer, here)[0]:
            self._save(trainer, "after a step")
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch()
        self._stop_before_validation(trainer)

    # A validation may take long. Of several processes, each may have another number of its batches.
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            self._stop_before_validation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch()

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise InputError(f"task.monitor: '{self.monitor}' was not logged in validation (logged: {names})")
        self.compare(trainer, score)

    def compare(self, trainer: Trainer, score: Tensor) -> None:
        """Save the present weights as the best, if this score of theirs is."""
        better = self.best_score is None or (score < self.best_score if self.mode == "min" else score > self.best_score)
        if better and torch.isfinite(score):
            self.best_score = score.detach().clone().cpu()
            self._save(trainer, "best")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In an epoch that goes on after an interruption, Lightning would leave out a plateau schedule's step.
        trainer.fit_loop._restarting = False
        if any(isinstance(callback, lightning.WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            # When training ends, the average takes their place; a longer training needs them.
            self.trained = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "between epochs")
        self._stop_if_asked(trainer)
        # What follows (the final numbers) looks for signals itself.

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.stage is not None:  # Lightning forgets it before anybody can be told
            self.failed_in = trainer.state.stage.dataloader_prefix

    def _validation_is_due(self, trainer: Trainer) -> bool:
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        return loop._should_check_val_fx(fetcher)

    def _stop_before_validation(self, trainer: Trainer) -> None:
        if trainer.state.fn != "fit":
            self._stop_if_asked(trainer)
            return
        loop = trainer.fit_loop.epoch_loop
        if not loop._should_accumulate() and self._agreed(trainer, self.interrupts.received is not None)[0]:
            self._save(trainer, "before validation")
            self._stop_if_asked(trainer)

    def _agreed(self, trainer: Trainer, here: bool) -> tuple[bool, int | None]:
        """Whether it is so in any of the training's processes, and the signal that any has received.

        All of them are told the same, and then do the same. A signal that arrives meanwhile counts the next time.
        """
        received = self.interrupts.received
        if trainer.world_size == 1:
            return here, received
        flags = torch.tensor([float(here), float(received or 0)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        anywhere, signal = flags.tolist()  # on a GPU one wait, not two
        return bool(anywhere), int(signal) or None

    def _watch(self) -> None:
        """Take the signals from Lightning, whose handlers end a test with status 0."""
        if self.interrupts.before:
            self.interrupts.install()
            self.interrupts.watched = True

    def _stop_if_asked(self, trainer: Trainer) -> None:
        received = self._agreed(trainer, False)[1] if trainer.state.fn == "fit" else self.interrupts.received
        if received is not None:
            self.interrupts.received = received
            self.interrupts.stop()

    # -----------------------------------------------------------------------------------------------------------
    # What

    def _save(self, trainer: Trainer, saving: Place | Literal["best"]) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Guard):
                callback.look(trainer.lightning_module)
        module = trainer.lightning_module
        if not all(bool(p.isfinite().all()) for p in module.state_dict().values() if p.is_floating_point()):
            print(f"not saved: at step {trainer.global_step} the weights are no longer finite numbers")
            return
        self.saving = saving
        if saving != "best" and trainer.fit_loop._skip_backward:
            return  # StochasticWeightAveraging's last epoch, for the norms' statistics, is gone through as a whole
        if saving == "best":
            trainer.save_checkpoint(self.best)
            return
        if trainer.is_global_zero:
            keep_previous(self.last, self.previous)
        trainer.save_checkpoint(self.last)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["kindling"] = dict(self.content)
        for key in HYPERPARAMETERS:
            if key in checkpoint:
                checkpoint[key] = redacted(checkpoint[key])
        if self.saving == "best":
            for key in set(checkpoint) - set(OF_BEST):
                del checkpoint[key]
            return
        epochs: Any
        batches: Any
        epochs, batches = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
        between = self.saving == "between epochs"
        if between and self.trained and "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = self.trained
        checkpoint["kindling"]["resume"] = {
            "form": FORM,
            "place": self.saving,
            "epoch": epochs.processed,
            "batch": 0 if between else batches.ready,
            "step": trainer.global_step,
            "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
            "collected": _of_each_process(trainer, epoch_state.collected(trainer, pl_module)),
            "meters": _of_each_process(
                trainer, {name: meter.state() for name, meter in _training_meters(pl_module).items()}
            ),
        }
        _tidy(checkpoint["loops"]["fit_loop"], self.saving)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.saved and self.saved.renewed:
            forget(checkpoint, self.content["config"])

    def _restore(self, trainer: Trainer, module: LightningModule, saved: Saved) -> None:
        """What Lightning does not restore by itself."""
        resume = saved.content["kindling"]["resume"]
        trainer._logger_connector._callback_metrics.update(resume["metrics"])
        if trainer.global_rank < len(resume["meters"]):  # there may be more processes now than there were
            own = resume["meters"][trainer.global_rank]
            for name, meter in _training_meters(module).items():
                meter.restore(own[name], module.device)
            if "collected" in resume:  # not in a checkpoint of an earlier version
                within_epoch = resume["place"] != "between epochs"
                epoch_state.restore(trainer, module, resume["collected"][trainer.global_rank], within_epoch)
        if resume["place"] != "between epochs":
            # It takes up its schedule and its average where an epoch starts; what it has counted is not counted twice.
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, lightning.StochasticWeightAveraging):
                    callback.on_train_epoch_start(trainer, module)
        else:
            # Lightning takes a training that is limited by steps for one that was interrupted within an epoch.
            for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
                loop._restarting = False
        if saved.renewed:
            kindlings = saved.content["kindling"], self.content
            before, now = (get(kindling["config"], "task.optimizer") for kindling in kindlings)
            renew(trainer, module, resume["epoch"], keep_rate=before == now)


def _training_meters(module: LightningModule) -> dict[str, Meter]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Meter) and part.stage == "train"}


def _of_each_process(trainer: Trainer, value: Any) -> list[Any]:
    """A value of which each of the training's processes has its own, by rank; all of them save at the same time."""
    if trainer.world_size == 1:
        return [value]
    values = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def _tidy(loops: dict[str, Any], place: str) -> None:
    """Write the loops' counters as Lightning wants to find them at that place.

    It knows how to go on after a step; between epochs its counters depend on the hook that saved, and before a
    validation it would take the validation for done.
    """
    if place == "between epochs":
        for counter in loops["epoch_progress"].values():
            counter.update(dict.fromkeys(counter, counter["processed"]))
        batches = loops["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["total"] = dict.fromkeys(batches["total"], batches["total"]["completed"])
        batches["is_last_batch"] = False
    elif place == "before validation":
        begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # a validation under way, with no batch done
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation.update(total=dict(begun), current=dict(begun), is_last_batch=False)
