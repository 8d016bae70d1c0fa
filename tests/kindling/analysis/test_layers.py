"""The net's layers are counted right, and its weights are drawn as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from src.kindling.analysis.layers import Histograms, plot_weights, sample_weights
from src.kindling.data.spec import Spec
from src.kindling.training.layer_trace import LayerTrace, summarize_layers
from src.tasks.classification import Classification
from tests.kindling.analysis.test_figures import changed, render, texts


def test_layers_have_shapes_parameters_and_operations() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    spec = Spec(
        in_shape=(1, 4, 4),
        num_outputs=3,
        kind="image",
        classes=("a", "b", "c"),
        class_counts=(1, 1, 1),
    )
    task = Classification(net, spec)
    trace = LayerTrace()
    for name, part in task.named_modules():
        trace._watch(name, part)
    with trace.counter:
        task(torch.zeros(1, 1, 4, 4))
    table = summarize_layers(task, trace.layers)
    assert [tuple(map(str, row)) for row in table.itertuples(index=False)] == [
        ("net.0", "Conv2d", "2 x 4 x 4", f"{2 * 9 + 2}", f"{2 * 16 * 2 * 9}"),
        ("net.1", "ReLU", "2 x 4 x 4", "0", "0"),
        ("net.2", "Flatten", "32", "0", "0"),
        ("net.3", "Linear", "3", f"{32 * 3 + 3}", f"{2 * 32 * 3}"),
        ("all", "", "", "119", "768"),
    ]
    assert list(table) == ["layer", "kind", "output", "parameters", "FLOPs"]
    table = summarize_layers(task, {})  # not rehearsed
    assert table["layer"].tolist() == ["net.0", "net.3", "all"]
    assert table["output"].tolist() == ["", "", ""]


def test_weights_are_drawn_before_and_after() -> None:
    spec = Spec(
        in_shape=(1, 4, 4),
        num_outputs=3,
        kind="image",
        classes=("a", "b", "c"),
        class_counts=(1, 1, 1),
    )
    task = Classification(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)), spec)
    before = sample_weights(task)
    assert list(before) == ["net.1.weight"]
    assert len(sample_weights(task, most=10)["net.1.weight"]) == 10
    with torch.no_grad():
        task.net[1].weight.mul_(3)  # type: ignore[index, union-attr, operator]
    after = sample_weights(task)
    assert after["net.1.weight"] == pytest.approx(3 * before["net.1.weight"])
    figure = plot_weights(after, before)
    assert [axis.get_title() for axis in figure.axes] == ["1.weight"]
    assert changed(figure, plot_weights(after, after))
    assert changed(figure, plot_weights(after, {}))
    many = {f"layer{i}": np.full(3, 0.1) for i in range(40)}
    assert "Weights (12 of 40 layers)" in texts(plot_weights(many, {}))
    assert texts(plot_weights({}, {})) == ["Weights: the net has none"]
    assert render(plot_weights({"net.0": np.array([np.nan, np.inf])}, {})).std() > 0


def test_gradients_are_drawn_over_the_epochs() -> None:
    norms = {
        epoch: {"net.1.weight": np.full(5, 2.0 - epoch), "net.head.weight": np.arange(1.0, 6.0)}
        for epoch in (0, 1)
    }
    histograms = Histograms()
    histograms.norms = norms
    figure = histograms.plot()
    (axis,) = figure.axes
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axis.lines}
    assert lines == {"1.weight": [[1, 2], [2, 1]], "head.weight": [[1, 3], [2, 3]]}
    assert axis.get_yscale() == "log"
    norms[1]["net.1.weight"] = np.zeros(5)  # such as a layer that nothing reaches
    assert histograms.plot().axes[0].get_yscale() == "linear"
    assert changed(figure, histograms.plot())
