"""Print a training's progress: one line an epoch; on a terminal, the layers and a bar too."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from src.kindling.runs.metric_names import parse_name
from src.kindling.training.layer_trace import Layer, format_layers, summarize_layers

MOST_ROWS = 24  # of the layers
NAME = 20  # letters of a metric's name in the bar


def progress(monitor: str | None, layers: Mapping[str, Layer]) -> Callback:
    """Return the progress callback for standard output."""
    return Bar(monitor, layers) if sys.stdout.isatty() else EpochLines(monitor)


class EpochLines(Callback):
    """Prints one line for each epoch: its number, losses and metrics, and the seconds it took."""

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor
        self.started = 0.0
        self.epoch: int | None = None  # the current one
        self.printed: dict[str, Any] = {}  # the values of the line before
        self.width = 500  # some tasks log the norm of each parameter

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
        metrics = dict(trainer.callback_metrics)
        names = self._names(metrics)
        parts = [_format_epoch(self.epoch, trainer)]
        parts += [f"{name} {metrics[name].item():.4f}" for name in names]
        parts.append(f"({time.perf_counter() - self.started:.1f} s)")
        while len("  ".join(parts)) > self.width and names and not self._is_main(names.pop()):
            del parts[-2]  # metrics.csv has it
        print("  ".join(parts), flush=True)
        self.epoch, self.printed = None, metrics

    def _names(self, metrics: Mapping[str, Any]) -> list[str]:
        """The metrics of this epoch, the main ones first."""
        names = [name for name in metrics if metrics[name] is not self.printed.get(name)]
        # `self.log(…, on_step=True, on_epoch=True)` logs a value under three names.
        twice = [name for name in names if re.sub("_(step|epoch)$", "", name) in {*names} - {name}]
        names = [name for name in names if name not in twice]
        return sorted(names, key=lambda name: (name != self.monitor, not self._is_main(name)))

    def _is_main(self, name: str) -> bool:
        return name == self.monitor or "loss" in name


class Bar(EpochLines):
    """Prints the layers, then draws a bar of the whole training below the lines.

    Its rate and time include validation.
    """

    def __init__(self, monitor: str | None, layers: Mapping[str, Layer]) -> None:
        super().__init__(monitor)
        self.layers = layers
        self.progress: Progress | None = None
        self.drawn = 0.0
        self.length = math.inf  # batches of an epoch
        self.evaluated = 0  # batches of the current evaluation

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            print(format_layers(summarize_layers(module, self.layers), MOST_ROWS))

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._start(_format_epoch(trainer.current_epoch, trainer), _count_batches(trainer))
        super().on_train_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        if trainer.num_training_batches < math.inf:
            self.length = trainer.num_training_batches
        self._draw(
            description=_format_epoch(trainer.current_epoch, trainer),
            total=self._total(trainer, _count_batches(trainer)),
            batches=_format_share(0, self.length),
        )

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if self.progress:
            self.width = self.progress.console.width
        super().on_train_end(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due() or trainer.is_last_batch:
            self._draw(
                completed=_count_batches(trainer),
                total=self._total(trainer, _count_batches(trainer)),
                batches=_format_share(batch_idx + 1, self.length),
                values=self._values(trainer, outputs),
            )

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.length = trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def on_validation_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.evaluated = 0
        if trainer.state.fn != "fit":
            self._start("test" if trainer.testing else "validation")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.evaluated += 1
        if not self._is_due():
            return
        total = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        share = _format_share(self.evaluated, total)
        if trainer.state.fn == "fit":
            self._draw(batches=f"val {share}")
        else:
            self._draw(batches=share, completed=self.evaluated, total=total)

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.progress:
            self.progress.stop()

    on_exception = teardown

    def _start(self, description: str, completed: int = 0) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[batches]}", markup=False),
            TextColumn("{task.fields[values]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=Console(soft_wrap=True),  # a path in a line stays whole
            auto_refresh=False,  # a thread would hold the console's lock in forked workers
            speed_estimate_period=300,
            transient=True,
            expand=True,
        )
        self.progress.add_task(
            description, total=None, completed=completed, batches="", values="", rate=""
        )
        self.progress.start()

    def _is_due(self) -> bool:
        now = time.perf_counter()
        due = now - self.drawn > 0.1
        self.drawn = now if due else self.drawn
        return due

    def _draw(self, **fields: Any) -> None:
        if self.progress:
            (task,) = self.progress.tasks
            self.progress.update(task.id, **fields)
            if task.speed:
                self.progress.update(task.id, rate=f"{task.speed:.4g} it/s")
            self.progress.refresh()

    def _total(self, trainer: Trainer, done: int) -> float | None:
        """The batches of the whole training; None if they are unknown."""
        totals = [(trainer.max_epochs or 0) * self.length]
        if trainer.max_steps > 0 and trainer.global_step:
            totals.append(trainer.max_steps * done / trainer.global_step)
        total = min((total for total in totals if total > 0), default=math.inf)
        return total if total < math.inf else None

    def _values(self, trainer: Trainer, outputs: Any) -> str:
        """The loss of the last batch, and the monitored value."""
        metrics, values = trainer.callback_metrics, {}
        if isinstance(outputs, dict) and "loss" in outputs:
            values["loss"] = outputs["loss"]
        else:  # manual optimization: the first loss that it logs
            losses = [name for name in metrics if "loss" in name and parse_name(name)[0] != "val"]
            values |= {name: metrics[name] for name in losses[:1]}
        if self.monitor in metrics:
            values[self.monitor] = metrics[self.monitor]
        return "  ".join(f"{_shorten(name)} {value.item():.4g}" for name, value in values.items())


def _count_batches(trainer: Trainer) -> int:
    """The training batches of all epochs until now."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _shorten(name: str) -> str:
    return name if len(name) <= NAME else "…" + name[1 - NAME :]


def _format_share(done: int, total: float) -> str:
    """`3/20`, or `3` of an unknown number."""
    return f"{done}/{total}" if total < math.inf else str(done)


def _format_epoch(epoch: int, trainer: Trainer) -> str:
    """`epoch 1/15`, from Lightning's number, which counts from 0."""
    limit = trainer.max_epochs or -1
    return f"epoch {epoch + 1}/{limit}" if limit > 0 else f"epoch {epoch + 1}"
