"""What a trace of a task's layers finds: shapes and FLOPs, of any kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.kindling.training.layer_trace import Layer, LayerTrace
from src.kindling.training.rehearsal import rehearse
from tests.conftest import checked


class Mixed(LightningModule):
    """A recurrent layer, a list of layers, a layer without tensors, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 8, batch_first=True)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)])
        self.unused = nn.Linear(2, 2)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor], _: int) -> None:
        x, _ = self.rnn(batch[0])
        for block in self.blocks:
            x = block(x)
        self.manual_backward(self.blocks[1](self.blocks[0](x.repeat(1, 1, 2))).sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(20, 5, 3)), batch_size=20)


@pytest.fixture
def trace() -> LayerTrace:
    trace = LayerTrace()
    rehearse(checked("digits"), None, Mixed(), trace)
    return trace


def test_trace_counts_one_sample_of_first_call(trace: LayerTrace) -> None:
    of_a_step = 2 * 4 * 8 * (3 + 8)  # four gates, of the input and the state
    assert trace.layers == {
        "rnn": Layer((5, 8), 5 * of_a_step),
        "blocks.0": Layer((5, 8), 5 * 2 * 8 * 8),
        "blocks.1": Layer((5, 4), 5 * 2 * 8 * 4),
    }


def test_trace_that_fails_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("hooks are not supported")

    monkeypatch.setattr(LayerTrace, "_watch", fail)
    trace = LayerTrace()
    assert rehearse(checked("digits"), None, Mixed(), trace) == {}
    assert trace.layers == {}
