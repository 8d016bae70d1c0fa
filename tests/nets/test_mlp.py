"""The MLP takes input of any shape, gives any number of outputs, and trains."""

from __future__ import annotations

import pytest
import torch

from src.nets.mlp import MLP
from tests.conftest import train


@pytest.mark.parametrize("in_shape", [(5,), (1, 8, 8), (3, 7, 5)])
def test_mlp_takes_any_shape(in_shape: tuple[int, ...]) -> None:
    net = MLP(in_shape, 4, hidden=(16, 8), batch_norm=True, dropout=0.1)
    assert net(torch.zeros(3, *in_shape)).shape == (3, 4)
    assert MLP(in_shape, 4, hidden=())(torch.zeros(3, *in_shape)).shape == (3, 4)


def test_mlp_trains() -> None:
    run = train("digits", "net=mlp").run
    assert type(run.task.net) is MLP
    assert run.task(torch.zeros(2, *run.spec.in_shape)).shape == (2, run.spec.num_outputs)
