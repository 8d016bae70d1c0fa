"""Plots and tables of a net: its layers, the distribution of its weights, its gradient norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from matplotlib.figure import Figure

from src.kindling.analysis.drawing import (
    BLUE,
    create_panels,
    draw_message,
    set_log_scale,
    set_titles,
    shorten_label,
)
from src.kindling.analysis.predictions import Array, eager, spread
from src.kindling.data.preprocess import net_shape

if TYPE_CHECKING:
    from src.kindling.data.spec import Spec

LAYERS = 12  # of the weights' plot


def summarize_layers(task: LightningModule, spec: Spec | None) -> dict[str, list[str]]:
    """List kind, output shape, parameters and FLOPs of each layer for one sample, and the sums.

    A multiply-add counts as two FLOPs.
    """
    own = task.example_input_array
    if spec is not None and is_overridden("forward", task):
        shape = net_shape(spec, task)
        task.example_input_array = torch.zeros(1, *shape, device=task.device).to(task.dtype)
    with eager(task):
        summary = ModelSummary(task, max_depth=-1)
    task.example_input_array = own
    names, kinds, sizes = summary.layer_names, summary.layer_types, summary.out_sizes
    containers = {name.rpartition(".")[0] for name in names}
    rows = []
    for name, kind, size, parameters in zip(names, kinds, sizes, summary.param_nums, strict=True):
        if name not in containers and (parameters or size != "?"):
            flops = sum(summary.flop_counts[name].values())
            rows.append((name, kind, " x ".join(map(str, size[1:])) or "?", parameters, flops))
    rows.append(("all", "", "", sum(row[3] for row in rows), sum(row[4] for row in rows)))
    texts = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    headings = ("layer", "kind", "output", "parameters", "FLOPs")
    return {heading: list(c) for heading, c in zip(headings, zip(*texts, strict=True), strict=True)}


def sample_weights(task: LightningModule, most: int = 20_000) -> dict[str, Array]:
    """Return evenly spaced values of each weight; biases and norms are left out."""
    sampled = {}
    for name, parameter in task.named_parameters():
        if parameter.ndim > 1 and parameter.numel():
            values = parameter.detach().flatten()[:: -(-parameter.numel() // most)]
            sampled[name] = values.float().cpu().numpy().copy()
    return sampled


def plot_weights(after: Mapping[str, Array], before: Mapping[str, Array]) -> Figure:
    """Plot each layer's weights after and before training; both come from `sample_weights`."""
    names = [list(after)[i] for i in spread(len(after), LAYERS)]
    if not names:
        return draw_message("Weights: the net has none")
    figure, axes = create_panels(len(names), 2.6, 1.6, across=4, left=0.2, bottom=0.35, head=0.3)
    for axis, name in zip(axes, names, strict=True):
        now, past = after[name], before.get(name, np.empty(0))
        now, past = now[np.isfinite(now)], past[np.isfinite(past)]
        bins = np.histogram_bin_edges(np.concatenate([now, past]), 40).tolist()
        axis.hist(past, bins, histtype="stepfilled", color="0.8", label="untrained")
        axis.hist(now, bins, histtype="step", color=BLUE, label="trained")
        set_titles(axis, _shorten_layer(name))
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
        return draw_message("Gradients: none was recorded")
    figure, (axis,) = create_panels(1, 6.0, 3.2, right=2.6)
    epochs = [epoch + 1 for epoch in norms]
    for name in names:
        quantiles = [np.quantile(layers[name], (0.05, 0.5, 0.95)) for layers in norms.values()]
        low, median, high = np.array(quantiles).T
        (line,) = axis.plot(epochs, median, ".-", label=_shorten_layer(name))
        axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    if all((values > 0).all() for layers in norms.values() for values in layers.values()):
        set_log_scale(axis)
    axis.locator_params(axis="x", integer=True)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    set_titles(axis, "Gradient norms: median and 90 % of an epoch's steps", "epoch", "norm")
    return figure


def _shorten_layer(name: str) -> str:
    return shorten_label(name.removeprefix("net."), 32)
