"""Histograms of weights and gradients: what is recorded is right, and only now and then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from src.kindling.analysis.layers import Histograms
from tests.kindling.analysis.test_plots import trained

pytestmark = pytest.mark.plots


def stood(epoch: int = 0, batches: float = 10, epochs: int = 10, **more: Any) -> Any:
    """A trainer, as far as it is asked."""
    return SimpleNamespace(
        current_epoch=epoch,
        num_training_batches=batches,
        max_epochs=epochs,
        global_step=0,
        loggers=[],
        accumulate_grad_batches=1,
        is_global_zero=True,
        **more,
    )


def test_norms_are_those_of_the_gradients() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    net[0].weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    histograms, trainer = Histograms(), stood()
    histograms.on_train_epoch_start(trainer, net)  # type: ignore[arg-type]
    for step in range(3):
        trainer.global_step = step
        histograms.on_before_optimizer_step(trainer, net, None)  # type: ignore[arg-type]
        net[0].weight.grad *= 2
    histograms.on_train_epoch_end(trainer, net)  # type: ignore[arg-type]
    assert {name: norms.tolist() for name, norms in histograms.norms[0].items()} == {
        "0.weight": [5, 10, 20],
        "2.weight": [0, 0, 0],
    }


def test_some_epochs_and_steps_are_recorded() -> None:
    net = nn.Linear(2, 2)
    for epochs, recorded in ((100, [*range(11), 20]), (5, [*range(5)]), (-1, [0, 1, 2])):
        histograms = Histograms()
        found = []
        for epoch in range(30 if epochs == 100 else 3 if epochs < 0 else epochs):
            histograms.on_train_epoch_start(stood(epoch, epochs=epochs), net)  # type: ignore[arg-type]
            found += [epoch] * bool(histograms.layers)
        assert found == recorded, epochs
    for batches in (7, 1000, 100_000, float("inf")):
        trainer, histograms = stood(batches=batches), Histograms()
        histograms.on_train_epoch_start(trainer, net)  # type: ignore[arg-type]
        for step in range(min(int(min(batches, 5000)), 5000)):
            trainer.global_step = step
            histograms.on_before_optimizer_step(trainer, net, None)  # type: ignore[arg-type]
        assert len(histograms.buffer) == {7: 7, 1000: 33, 100_000: 2}.get(
            int(min(batches, 10**9)), 64
        )
    many = nn.ModuleList(nn.Linear(1, 1) for _ in range(50))
    histograms.on_train_epoch_start(stood(), many)  # type: ignore[arg-type]
    assert len(histograms.layers) == 12


def test_tensorboard_has_them_by_layer() -> None:
    pictures, task, _, loggers = trained("diabetes")
    loggers[1].close()
    events = EventAccumulator(str(pictures.run.path), size_guidance={"histograms": 0}).Reload()
    layers = [name for name, parameter in task.named_parameters() if parameter.ndim > 1]
    assert sorted(events.Tags()["histograms"]) == sorted(
        f"{kind}/{name}" for kind in ("weights", "gradient_norms") for name in layers
    )
    first, last = events.Histograms(f"weights/{layers[0]}")
    assert (first.step, last.step) == (3, 7)
    weight = dict(task.named_parameters())[layers[0]].detach().numpy()
    assert (last.histogram_value.min, last.histogram_value.max) == pytest.approx(
        (weight.min(), weight.max())
    )
    assert last.histogram_value.num == weight.size
    _, norms = events.Histograms(f"gradient_norms/{layers[0]}")
    assert norms.histogram_value.num == 4
    assert norms.histogram_value.max == pytest.approx(pictures.histograms.norms[1][layers[0]].max())


def test_nonfinite_weights_are_left_out() -> None:
    seen: list[tuple[str, list[float]]] = []
    from lightning.pytorch.loggers import TensorBoardLogger

    board = TensorBoardLogger.__new__(TensorBoardLogger)
    board._experiment = SimpleNamespace(
        add_histogram=lambda tag, values, *_, **__: seen.append((tag, values.tolist()))
    )
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [np.nan]]))
    net.weight.grad = torch.full((2, 1), np.inf)
    histograms, trainer = Histograms(), stood()
    trainer.loggers = [board]
    histograms.on_train_epoch_start(trainer, net)  # type: ignore[arg-type]
    histograms.on_before_optimizer_step(trainer, net, None)  # type: ignore[arg-type]
    histograms.on_train_epoch_end(trainer, net)  # type: ignore[arg-type]
    assert seen == [("weights/weight", [1.0])]
