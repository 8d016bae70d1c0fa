"""Print a training's progress: a bar on a terminal, one line an epoch into a file or a pipe."""

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

from src.kindling.data.preprocess import net_shape
from src.kindling.data.spec import Spec
from src.kindling.runs.metric_names import parse_name

# The metrics of an epoch's line.
PRINTED = ("loss", "accuracy", "acc", "mae")


def progress(monitor: str | None = None) -> tuple[list[Callback], bool]:
    """Return the progress callbacks for standard output, and whether that is a terminal."""
    if sys.stdout.isatty():
        return [Bar(monitor), Summary(max_depth=2)], True
    return [EpochLines()], False


class Summary(RichModelSummary):
    """Lightning's summary with the shapes of the data, without modules that have no parameters."""

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        own = module.example_input_array
        if own is None:
            module.example_input_array = _example(trainer, module)
        super().on_fit_start(trainer, module)
        module.example_input_array = own

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **kwargs: Any) -> None:
        parameters = dict(summary_data)["Params"]
        rows = [i for i, count in enumerate(parameters) if count.strip() != "0"]
        kept = [(name, [values[i] for i in rows]) for name, values in summary_data]
        RichModelSummary.summarize(kept, *args, **kwargs)


def _example(trainer: Trainer, module: LightningModule) -> Tensor | None:
    """Return an input for the table's shapes; None if `forward` does not take the data's."""
    spec: Spec | None = getattr(trainer.datamodule, "spec", None)  # type: ignore[attr-defined]
    if not isinstance(spec, Spec) or not is_overridden("forward", module):
        return None
    x = torch.zeros(1, *net_shape(spec, module), device=module.device)
    modes = {part: part.training for part in module.modules()}
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            module.eval()(x)
    except Exception:  # it takes something else
        return None
    finally:
        for part, training in modes.items():
            part.training = training
    return x


class Bar(RichProgressBar):
    """Lightning's bar with the monitored value, drawn ten times a second and not by step."""

    def __init__(self, monitor: str | None = None) -> None:
        super().__init__(refresh_rate=10)
        self.monitor, self.drawn = monitor, 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        now = time.perf_counter()
        if now - self.drawn > 0.1 or trainer.is_last_batch:
            self.drawn = now
            super().on_train_batch_end(trainer, *args)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        values = super().get_metrics(trainer, module)
        values.pop("v_num", None)
        if self.monitor in trainer.callback_metrics:
            values[self.monitor] = f"{trainer.callback_metrics[self.monitor].item():.4g}"
        return values


class EpochLines(Callback):
    """Prints one line for each epoch: its number, losses and metrics, and the seconds it took."""

    def __init__(self) -> None:
        self.started = 0.0
        self.epoch: int | None = None  # the current one

    # A training resumed within an epoch does not call `on_train_epoch_start`.
    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.epoch = None
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.epoch != trainer.current_epoch:
            self.on_train_end(trainer)
            self.epoch, self.started = trainer.current_epoch, time.perf_counter()

    # `on_train_epoch_end` of callbacks precedes the module's, which logs the training metrics.
    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if self.epoch is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        names = {name for name in metrics if parse_name(name)[1] in PRINTED}
        names -= {f"{name}_epoch" for name in names}  # Lightning's second name of the same value
        values = "  ".join(f"{name} {metrics[name].item():.4f}" for name in sorted(names))
        epoch = f"epoch {self.epoch + 1}/{trainer.max_epochs}"
        print(f"{epoch}  {values}  ({time.perf_counter() - self.started:.1f} s)", flush=True)
        self.epoch = None
