"""Plots and tables of a net: its layers, the distribution of its weights, its gradient norms."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from src.kindling.analysis import drawing
from src.kindling.analysis.predictions import Array, eager, find_input, spread

LAYERS = 12  # of the weights' plot


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


def plot_gradients(norms: Mapping[int, Mapping[str, Array]]) -> Figure:
    """Plot the norm of each layer's gradient: an epoch's median, and 90 % of its steps.

    Args:
        norms: by epoch, counted from 0, and by layer; see `Histograms`.
    """
    names = [*next(iter(norms.values()), {})]
    if not names:
        return drawing.draw_message("Gradients: none was recorded")
    figure, (axis,) = drawing.create_panels(1, 9.0, 4.0)
    epochs, lowest = [epoch + 1 for epoch in norms], np.inf
    for name in names:
        quantiles = [np.quantile(layers[name], (0, 0.05, 0.5, 0.95)) for layers in norms.values()]
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


def _shorten_layer(name: str) -> str:
    # matplotlib leaves labels with a leading underscore out of legends.
    return drawing.shorten_label(name.removeprefix("net.").lstrip("_"), 32)
