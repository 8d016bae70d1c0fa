"""Plots of a run for plots/ and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from matplotlib.figure import Figure
from PIL import Image

from src.kindling.analysis import drawing, history, layers
from src.kindling.analysis.drawing import TEXT, encode_png
from src.kindling.analysis.predictions import Array, Predictions, predict
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
        self.histograms = layers.Histograms()
        self.callbacks: list[Callback] = [self.histograms]
        self.before: Predictions | None = None
        self.weights: Mapping[str, Array] = {}
        self.layers: Mapping[str, Layer] = {}  # of the rehearsal

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
            self.weights = layers.sample_weights(task)
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
        yield "weights", layers.plot_weights(layers.sample_weights(task), self.weights)
        if self.histograms.norms:
            yield "gradients", self.histograms.plot()
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
