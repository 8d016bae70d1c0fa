"""What a training prints: a bar on a terminal, one line an epoch into a file or a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichModelSummary, RichProgressBar
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from src.kindling.data.spec import Spec


def progress() -> tuple[list[Callback], bool]:
    """The callbacks that show the progress, as suits standard output, and whether that is a terminal."""
    if sys.stdout.isatty():
        return [Bar(), Summary(max_depth=2)], True
    return [EpochLines()], False


class Summary(RichModelSummary):
    """Lightning's rich summary, without the rows of what has no parameters."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # One input is passed through in eval mode, for the shapes and the operations of each layer.
        own = pl_module.example_input_array
        if own is None:
            pl_module.example_input_array = _example(trainer, pl_module)
        super().on_fit_start(trainer, pl_module)
        pl_module.example_input_array = own

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **kwargs: Any) -> None:
        columns = dict(summary_data)
        rows = [i for i, count in enumerate(columns["Params"]) if count.strip() != "0"]
        kept = [(name, [values[i] for i in rows]) for name, values in summary_data]
        RichModelSummary.summarize(kept, *args, **kwargs)


def _example(trainer: Trainer, module: LightningModule) -> Tensor | None:
    """One raw input, if the data have a spec and the module's `forward` takes it; without one, the table has no shapes."""
    spec: Spec | None = getattr(trainer.datamodule, "spec", None)  # type: ignore[attr-defined]
    if spec is None or not is_overridden("forward", module):
        return None
    x = torch.zeros(1, *spec.raw_shape, device=module.device)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            module(x)
    except Exception:  # it takes something else
        return None
    finally:
        for part, training in modes.items():
            part.training = training
    return x


class Bar(RichProgressBar):
    """Lightning's rich bar, with the monitored value and no version number; drawn by time, not by step."""

    SECONDS = 0.1

    def __init__(self) -> None:
        super().__init__(refresh_rate=round(1 / self.SECONDS))
        self.drawn = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        now = time.perf_counter()
        if now - self.drawn > self.SECONDS or trainer.is_last_batch:
            self.drawn = now
            super().on_train_batch_end(trainer, *args)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        monitor = getattr(pl_module, "monitor", None)
        if monitor in trainer.callback_metrics:
            shown[monitor] = f"{trainer.callback_metrics[monitor].item():.4g}"
        return shown


class EpochLines(Callback):
    """Prints one line for each epoch: its number, losses and metrics, and the seconds it took."""

    def __init__(self) -> None:
        self.started = 0.0
        self.epoch: int | None = None  # the one under way

    # A training that goes on within an epoch is not told of its start.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = None
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch != trainer.current_epoch:
            self._print(trainer)
            self.epoch = trainer.current_epoch
            self.started = time.perf_counter()

    # Callbacks are told of an epoch's end before the module is, which logs the training metrics only then.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print(trainer)

    def _print(self, trainer: Trainer) -> None:
        if self.epoch is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        names = sorted(name for name in metrics if name.partition("/")[2] in ("loss", "accuracy", "mae"))
        values = "  ".join(f"{name} {metrics[name].item():.4f}" for name in names)
        seconds = time.perf_counter() - self.started
        print(f"epoch {self.epoch + 1}/{trainer.max_epochs}  {values}  ({seconds:.1f} s)", flush=True)
        self.epoch = None
