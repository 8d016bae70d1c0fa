"""The CNN takes any image, gives any number of outputs, and trains."""

from __future__ import annotations

import pytest
import torch

from src.kindling.config.errors import InputError
from src.nets.cnn import CNN
from tests.conftest import train


@pytest.mark.parametrize("in_shape", [(1, 8, 8), (3, 32, 32), (3, 1, 1), (2, 5, 17)])
def test_cnn_takes_any_image(in_shape: tuple[int, ...]) -> None:
    assert CNN(in_shape, 4, channels=(8, 8, 8, 8))(torch.zeros(3, *in_shape)).shape == (3, 4)


def test_cnn_refuses_a_table() -> None:
    with pytest.raises(
        InputError, match=r"net: CNN needs images .* and the data is \(10,\); try net=mlp"
    ):
        CNN((10,), 2)


def test_cnn_trains() -> None:
    run = train("digits", "net=cnn").run
    assert type(run.task.net) is CNN
    assert run.task(torch.zeros(2, *run.spec.in_shape)).shape == (2, run.spec.num_outputs)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_global_pool_is_invariant_to_position(how: str) -> None:
    torch.manual_seed(0)
    net = CNN((1, 32, 32), 5, channels=(4, 8), global_pool=how).eval()  # type: ignore[arg-type]
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:12, 8:12] = torch.rand(4, 4)
    assert torch.allclose(net(x), net(x.roll((8, 12), dims=(2, 3))), atol=1e-6)
    assert not torch.allclose(CNN((1, 32, 32), 5, channels=(4, 8)).eval()(x), net(x))
    assert net.head.in_features == 8
