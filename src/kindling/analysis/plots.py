"""The run's pictures: drawn once, with the best checkpoint's weights, into plots/ and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from src.kindling.analysis.histograms import Histograms
from src.kindling.analysis.predictions import Array, Predictions, predict
from src.kindling.analysis.report import report
from src.kindling.data.batch import Stage
from src.kindling.data.data_module import DataModule
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import TrainedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plots(Callback):
    """Keeps what the untrained net says of some validation samples, for a picture of before and after.

    The trainer gets it with its `histograms`, whose gradients are drawn as well.

    Args:
        run: where predictions and pictures go.
        most: so many validation samples.
    """

    def __init__(self, run: Run, most: int = 64) -> None:
        self.run, self.most = run, most
        self.histograms = Histograms()
        self.device = torch.device("cpu")
        self.before: Predictions | None = None
        self.weights: Mapping[str, Array] = {}
        self.layers: Mapping[str, list[str]] = {}

    @property
    def callbacks(self) -> list[Callback]:
        return [self, self.histograms]

    def write_report(self) -> None:
        """Write report.html; an error is printed, since a page must not end a training."""
        try:
            report(TrainedRun.of(self.run))
        except Exception as error:
            print(f"report: not written: {type(error).__name__}: {error}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from src.kindling.analysis.layers import sampled_weights

        self.device = pl_module.device
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        kept = self.run.path / "predictions" / "untrained.npz"
        try:
            if kept.exists():  # the training goes on from a checkpoint
                self.before = Predictions.load(kept, data)
            elif trainer.is_global_zero:
                self.weights = sampled_weights(pl_module)
                self.before = predict(pl_module, data, "val", self.most)
                self.before.save(kept)
        except Exception as error:
            print(f"pictures: none of before: {type(error).__name__}: {error}")

    def draw(self, task: Any, data: DataModule, stage: Stage, loggers: Sequence[Logger] = ()) -> list[str]:
        """Write the pictures and a split's predictions, and return the pictures' names; in the first process alone.

        What goes wrong here is said and ends the drawing: it is not worth a training.

        Args:
            task: with the weights of the best checkpoint; `figures` and `examples` are drawn where it has them.
            data: its data.
            stage: the split to predict; validation where it has no sample.
            loggers: of which TensorBoard's gets the same pictures, the layers and the config.
        """
        from src.kindling.analysis.figures import png

        boards = [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
        folder, names = self.run.path / "plots", []
        try:
            folder.mkdir(exist_ok=True)
            for name, figure in self._figures(task.to(self.device), data, stage):
                encoded, height, width = png(figure)
                (folder / f"{name}.png").write_bytes(encoded)
                for board in boards:  # `add_image` would compress it once more
                    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
                    summary = Summary(value=[Summary.Value(tag=f"pictures/{name}", image=image)])
                    board._get_file_writer().add_summary(summary, task.global_step)
                names.append(name)
            for board in boards:
                config = (self.run.path / "config.yaml").read_text(encoding="utf-8")
                board.add_text("config", "    " + config.replace("\n", "\n    "))
                rows = [[*self.layers], ["-", "-", "-", "-:", "-:"], *zip(*self.layers.values(), strict=True)]
                board.add_text("layers", "\n".join(f"|{'|'.join(row)}|" for row in rows))
        except Exception as error:
            after = f"after '{names[-1]}'" if names else "at the first"
            print(f"pictures: ended {after}: {type(error).__name__}: {error}")
        return names

    def _figures(self, task: Any, data: DataModule, stage: Stage) -> Iterator[tuple[str, Figure]]:
        from src.kindling.analysis.figures import table
        from src.kindling.analysis.history import curves
        from src.kindling.analysis.layers import gradients, layer_columns, sampled_weights, weights

        yield "curves", curves(self.run.path / "metrics.csv", task.monitor, task.mode)
        if hasattr(task, "figures"):
            stage = stage if len(data.indices[stage]) else "val"
            predictions = predict(task, data, stage)
            predictions.save(self.run.path / "predictions" / f"{stage}.npz")
            yield from ((f"{stage}_{name}", figure) for name, figure in task.figures(predictions).items())
        if hasattr(task, "examples") and self.before is not None:
            yield "before_and_after", task.examples(predict(task, data, "val", self.most), self.before)
        yield "weights", weights(sampled_weights(task), self.weights)
        if self.histograms.norms:
            yield "gradients", gradients(self.histograms.norms)
        self.layers = layer_columns(task, data.spec)
        yield "layers", table(self.layers, "The net's layers, for one sample; a multiply-add is two FLOPs")
