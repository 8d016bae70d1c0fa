"""Nets take any input shape and give any number of outputs; they know nothing of Lightning."""

from __future__ import annotations

import pytest
import torch

from src.errors import InputError
from src.nets.cnn import CNN
from src.nets.mlp import MLP
from src.nets.preprocess import Standardize


@pytest.mark.parametrize("in_shape", [(5,), (1, 8, 8), (3, 7, 5)])
def test_mlp_takes_any_shape(in_shape: tuple[int, ...]) -> None:
    net = MLP(in_shape, 4, hidden=(16, 8), batch_norm=True, dropout=0.1)
    assert net(torch.zeros(3, *in_shape)).shape == (3, 4)
    assert MLP(in_shape, 4, hidden=())(torch.zeros(3, *in_shape)).shape == (3, 4)


@pytest.mark.parametrize("in_shape", [(1, 8, 8), (3, 32, 32), (3, 1, 1), (2, 5, 17)])
def test_cnn_takes_any_image(in_shape: tuple[int, ...]) -> None:
    assert CNN(in_shape, 4, channels=(8, 8, 8, 8))(torch.zeros(3, *in_shape)).shape == (3, 4)


def test_cnn_refuses_a_table() -> None:
    with pytest.raises(InputError, match=r"net: CNN needs images .* and the data is \(10,\); try net=mlp"):
        CNN((10,), 2)


def test_standardize_and_back() -> None:
    scale = Standardize((1.0, 2.0), (2.0, 4.0), dims=3)
    x = torch.tensor([1, 6], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert scale(x).flatten().tolist() == [0.0, 1.0]
    assert scale.inverse(scale(x)).flatten().tolist() == [1.0, 6.0]
    assert set(scale.state_dict()) == {"mean", "std"}
