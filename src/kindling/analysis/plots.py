"""Plots of a run for plots/ and TensorBoard, and histograms of weights and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from src.kindling.analysis import drawing, history, layers
from src.kindling.analysis.drawing import TEXT, encode_png
from src.kindling.analysis.predictions import Array, Predictions, predict, spread
from src.kindling.analysis.report import report
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.nn.additions import outputs_of
from src.kindling.runs.run import Run
from src.kindling.training.layer_trace import Layer, summarize_layers
from src.kindling.training.monitor import Monitor
from src.kindling.training.stages import has_stage
from src.kindling.training.trained_run import TrainedRun

EPOCHS = 10  # the first ones are recorded, and about as many of the others, evenly spaced
STEPS = 32  # of an epoch, at least; at most twice as many
LAYERS = 12
VALUES = 2_000  # of each weight


class Plots:
    """Plot a run, and keep predictions of the untrained net for a plot of before and after.

    The Trainer gets its `callbacks`, which record gradient norms.

    Args:
        run: its directory gets predictions and plots.
        most: number of validation samples in the plot of before and after.
        graph: whether TensorBoard gets the net's graph.
    """

    def __init__(self, run: Run, most: int = 64, graph: bool = False) -> None:
        self.run, self.most, self.graph = run, most, graph
        self.histograms = Histograms()
        self.before: Predictions | None = None
        self.weights: Mapping[str, Array] = {}
        self.layers: Mapping[str, Layer] = {}  # of the rehearsal

    @property
    def callbacks(self) -> list[Callback]:
        return [self.histograms]

    def write_report(self) -> None:
        """Write report.html; an error is printed and does not end the training."""
        try:
            report(TrainedRun.of(self.run))
        except Exception as error:
            print(f"report: not written: {type(error).__name__}: {error}")

    def draw_before(self, task: LightningModule, data: LightningDataModule | None) -> None:
        """Predict some validation samples with the untrained task; an error is printed."""
        kept = self.run.path / "predictions" / "untrained.npz"
        try:
            if kept.exists():  # resumed from a checkpoint
                self.before = Predictions.load(kept, data)
                return
            self.weights = sample_weights(task)
            if outputs_of(task) and isinstance(data, DataModule):
                self.before = predict(task, data, "val", self.most)
                self.before.save(kept)
        except Exception as error:
            print(f"plots: before_and_after: skipped: {type(error).__name__}: {error}")

    def draw(
        self,
        task: Any,
        data: LightningDataModule | None,
        stage: Stage,
        monitor: Monitor,
        loggers: Sequence[Logger] = (),
    ) -> list[str]:
        """Write plots and a split's predictions in the first process; return the plots' names.

        An error is printed and ends the plotting, not the training.

        Args:
            task: with the weights of the best checkpoint. Plotted are its `outputs` and the
                figures by name that its own `plot(predictions)` returns.
            data: its data.
            stage: the split to predict; validation if it has no samples.
            monitor: the metric that selected the best checkpoint.
            loggers: TensorBoard's gets the plots, the layers and the config.
        """
        boards = [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
        folder, names = self.run.path / "plots", []
        try:
            folder.mkdir(exist_ok=True)
            for name, figure in self._figures(task, data, stage, monitor):
                path = folder / f"{name}.png"
                path.write_bytes(encode_png(figure))
                for board in boards:
                    pixels = np.asarray(Image.open(path))
                    board.add_image(f"plots/{name}", pixels, task.global_step, dataformats="HWC")
                    if figure.get_gid() == TEXT:
                        board.add_text(name, _indent(str(figure.get_label())))
                names.append(name)
            config = (self.run.path / "config.yaml").read_text(encoding="utf-8")
            for board in boards:
                board.add_text("config", _indent(config))
        except Exception as error:
            after = f"after '{names[-1]}'" if names else "at the first plot"
            print(f"plots: stopped {after}: {type(error).__name__}: {error}")
        for board in boards if self.graph else ():
            try:
                layers.add_graph(board, task, data)
            except Exception as error:
                print(f"--graph: not written: {str(error).partition(chr(10))[0]}")
        return names

    def _figures(
        self, task: Any, data: LightningDataModule | None, stage: Stage, monitor: Monitor
    ) -> Iterator[tuple[str, Figure]]:
        if monitor.name:
            yield "curves", history.plot_curves(self.run.path, monitor.name, monitor.mode)
        yield from self._plot_predictions(task, data, stage)
        yield "weights", layers.plot_weights(sample_weights(task), self.weights)
        if self.histograms.norms:
            yield "gradients", layers.plot_gradients(self.histograms.norms)
        table = summarize_layers(task, self.layers)
        title = "The net's layers, for one sample; a multiply-add is two FLOPs"
        yield "layers", drawing.draw_table(table, title)

    def _plot_predictions(
        self, task: Any, data: LightningDataModule | None, stage: Stage
    ) -> Iterator[tuple[str, Figure]]:
        """Save a split's predictions and plot them."""
        stage = stage if has_stage(stage, data, task) else "val"
        if not is_overridden("predict_step", task) or not has_stage(stage, data, task):
            return
        try:
            predictions = predict(task, data, stage)
        except InputError as error:  # it returns no columns
            print(f"plots: predictions: skipped: {error.lines[0]}")
            return
        predictions.save(self.run.path / "predictions" / f"{stage}.npz")
        outputs = outputs_of(task)
        plots = outputs.plot(predictions) if outputs else {}
        plots |= task.plot(predictions) if callable(getattr(task, "plot", None)) else {}
        yield from ((f"{stage}_{name}", figure) for name, figure in plots.items())
        if self.before is not None and outputs:
            now = predict(task, data, "val", self.most)
            yield "before_and_after", outputs.plot_examples(now, self.before)


def _indent(text: str) -> str:
    """Text as a block of Markdown that keeps its lines."""
    return "    " + text.replace("\n", "\n    ")


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
