"""A net's layers: its graph, the distribution of its weights, its gradient norms."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from src.kindling.analysis import drawing
from src.kindling.analysis.predictions import Array, eager, find_input, spread

EPOCHS = 10  # the first ones are recorded, and about as many of the others, evenly spaced
STEPS = 32  # of an epoch, at least; at most twice as many
LAYERS = 12
VALUES = 2_000  # of each weight


def add_graph(
    board: SummaryWriter, task: LightningModule, data: LightningDataModule | None
) -> None:
    """Write the graph of `forward`, traced for one sample, to TensorBoard.

    Raises:
        ValueError: when the shape of the input is unknown.
    """
    x = find_input(task, data)
    if x is None:
        raise ValueError(f"unknown input; set example_input_array in {type(task).__name__}")
    quiet, silent = warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO())
    with eager(task), torch.no_grad(), quiet, silent:
        board.add_graph(task, x[:1])


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

    def plot(self) -> Figure:
        """Plot the recorded norms: an epoch's median, and 90 % of its steps."""
        figure, (axis,) = drawing.create_panels(1, 9.0, 4.0)
        epochs, lowest = [epoch + 1 for epoch in self.norms], np.inf
        for name in next(iter(self.norms.values())):
            steps = [layers[name] for layers in self.norms.values()]
            quantiles = [np.quantile(norms, (0, 0.05, 0.5, 0.95)) for norms in steps]
            least, low, median, high = np.transpose(quantiles)
            lowest = min(lowest, *least)
            (line,) = axis.plot(epochs, median, ".-", label=_shorten_layer(name))
            axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axis.set_yscale("log" if lowest > 0 else "linear")
        axis.locator_params(axis="x", integer=True)
        figure.legend(fontsize=7, loc="outside right upper", frameon=False)
        title = "Gradient norms: median and 90 % of an epoch's steps"
        drawing.set_titles(axis, title, "epoch", "norm")
        return figure


def plot_weights(after: Mapping[str, Array], before: Mapping[str, Array]) -> Figure:
    """Plot each layer's weights after and before training; both come from `sample_weights`."""
    names = [list(after)[i] for i in spread(len(after), LAYERS)]
    if not names:
        return drawing.draw_message("Weights: the net has none")
    figure, axes = drawing.create_panels(len(names), 2.8, 2.2, across=4, head=0.3)
    for axis, name in zip(axes, names, strict=True):
        now, past = after[name], before.get(name, np.empty(0))
        now, past = now[np.isfinite(now)], past[np.isfinite(past)]
        bins = np.histogram_bin_edges(np.concatenate([now, past]), 40).tolist()
        axis.hist(past, bins, histtype="stepfilled", color="0.8")
        axis.hist(now, bins, histtype="step", color=drawing.BLUE)
        drawing.set_titles(axis, _shorten_layer(name))
        axis.set_yticks([])
    part = f" ({len(names)} of {len(after)} layers)" if len(names) < len(after) else ""
    colors = ": grey untrained, blue trained" if before else ""
    figure.suptitle(f"Weights{part}{colors}", fontsize=10)
    return figure


def sample_weights(task: LightningModule, most: int = 20_000) -> dict[str, Array]:
    """Return evenly spaced values of each weight; biases and norms are left out."""
    sampled = {}
    for name, parameter in _weights(task):
        values = parameter.detach().flatten()[:: -(-parameter.numel() // most)]
        sampled[name] = values.float().cpu().numpy().copy()
    return sampled


def _weights(task: LightningModule) -> list[tuple[str, Parameter]]:
    return [(name, p) for name, p in task.named_parameters() if p.ndim > 1 and p.numel()]


def _shorten_layer(name: str) -> str:
    # matplotlib leaves labels with a leading underscore out of legends.
    return drawing.shorten_label(name.removeprefix("net.").lstrip("_"), 32)
