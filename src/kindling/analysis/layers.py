"""The net as it is: its layers with their shapes, parameters and FLOPs, and how its weights are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from src.kindling.analysis.figures import BLUE, label, logarithmic, message, panels, titled
from src.kindling.analysis.predictions import Array, eager, spread

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from src.kindling.data.spec import Spec

LAYERS = 12  # of which the weights are drawn


def layers(task: LightningModule, spec: Spec) -> list[tuple[str, str, str, int, int]]:
    """Name, kind, output shape, parameters and FLOPs of each layer, for one sample; a multiply-add is two FLOPs."""
    from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary

    own = task.example_input_array
    task.example_input_array = torch.zeros(1, *spec.raw_shape, device=task.device).to(task.dtype)
    with eager(task):
        summary = ModelSummary(task, max_depth=-1)
    task.example_input_array = own
    inner = {name.rpartition(".")[0] for name in summary.layer_names}
    columns = zip(summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True)
    return [
        (name, kind, " x ".join(map(str, size[1:])) or "?", parameters, sum(summary.flop_counts[name].values()))
        for name, kind, size, parameters in columns
        if name not in inner and (parameters or size != "?")
    ]


def sampled_weights(task: LightningModule, most: int = 20_000) -> dict[str, Array]:
    """At most so many values of each weight, evenly spaced over it; those of biases and norms are left out."""
    return {
        name: parameter.detach().flatten()[:: -(-parameter.numel() // most)].float().cpu().numpy().copy()
        for name, parameter in task.named_parameters()
        if parameter.ndim > 1 and parameter.numel()
    }


def weights(after: Mapping[str, Array], before: Mapping[str, Array]) -> Figure:
    """How the weights of each layer are spread, and how they were before training; both from `sampled_weights`."""
    names = [list(after)[i] for i in spread(len(after), LAYERS)]
    if not names:
        return message("Weights: the net has none")
    figure, axes = panels(len(names), 2.6, 1.6, across=4, left=0.2, bottom=0.35, head=0.3)
    for axis, name in zip(axes, names, strict=True):
        now, past = (values[np.isfinite(values)] for values in (after[name], before.get(name, np.empty(0))))
        bins = np.histogram_bin_edges(np.concatenate([now, past]), 40).tolist()
        axis.hist(past, bins, histtype="stepfilled", color="0.8", label="untrained")
        axis.hist(now, bins, histtype="step", color=BLUE, label="trained")
        titled(axis, label(name.removeprefix("net."), 32))
        axis.set_yticks([])
    of = f" ({len(names)} of {len(after)} layers)" if len(names) < len(after) else ""
    figure.suptitle(f"Weights{of}{': grey untrained, blue trained' if before else ''}", fontsize=10)
    return figure


def gradients(norms: Mapping[int, Mapping[str, Array]]) -> Figure:
    """The norm of each layer's gradient over the training: the median of an epoch's steps, and nine tenths of them.

    Args:
        norms: by epoch, which counts from 0, and by layer, from `src.kindling.analysis.histograms`.
    """
    names = [*next(iter(norms.values()), {})]
    if not names:
        return message("Gradients: none was recorded")
    figure, (axis,) = panels(1, 6.0, 3.2, right=2.6)
    epochs = [epoch + 1 for epoch in norms]
    for name in names:
        low, middle, high = (
            np.array([np.quantile(norms[epoch][name], share) for epoch in norms]) for share in (0.05, 0.5, 0.95)
        )
        (line,) = axis.plot(epochs, middle, ".-", label=label(name.removeprefix("net."), 32))
        axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    if all((values > 0).all() for layers in norms.values() for values in layers.values()):
        logarithmic(axis)
    axis.locator_params(axis="x", integer=True)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    titled(axis, "Norm of each layer's gradient: the median of an epoch's steps, and 90 % of them", "epoch", "norm")
    return figure


def layer_columns(task: LightningModule, spec: Spec) -> dict[str, list[str]]:
    """The layers' table as texts by column, with their sums in its last row."""
    found = layers(task, spec)
    rows = [*found, ("all", "", "", sum(row[3] for row in found), sum(row[4] for row in found))]
    return {
        "layer": [row[0] for row in rows],
        "kind": [row[1] for row in rows],
        "output": [row[2] for row in rows],
        "parameters": [f"{row[3]:,}" for row in rows],
        "FLOPs": [f"{row[4]:,}" for row in rows],
    }
