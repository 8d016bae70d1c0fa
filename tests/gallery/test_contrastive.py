"""Contrastive pretraining: its loss, its views, its probe, and what digits can take of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from src.gallery.contrastive import Contrastive, DigitImages, draw_view, fit_ridge, nt_xent
from src.kindling.training import load_run
from tests.conftest import train


def set_up() -> DigitImages:
    data = DigitImages(split=(60, 20, 20))
    data.setup()
    return data


def test_nt_xent_by_hand() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    # Cosine 1 with the partner, 0 with the two other views, at temperature 0.5.
    expected = math.log(math.exp(2) + 2) - 2
    assert nt_xent(first, second, 0.5).item() == pytest.approx(expected)
    # Each is like the other image's views: cosine 0 with the partner, 1 and 0 with the others.
    assert nt_xent(first, second.flip(0), 0.5).item() == pytest.approx(expected + 2)


def test_views_differ_from_image_to_image() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 1, 8, 8)
    torch.testing.assert_close(draw_view(x, strength=0, noise=0), x)
    noise = draw_view(x, strength=0, noise=0.5) - x
    assert noise.std().item() == pytest.approx(0.5, rel=0.15)
    moved = draw_view(x[:1].repeat(2, 1, 1, 1), strength=0.25, noise=0)
    assert not torch.allclose(moved[0], moved[1])


def test_loss_takes_two_views_and_no_label() -> None:
    task = Contrastive(set_up().spec, strength=0, noise=0).eval()
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    x = torch.rand(6, 1, 8, 8)
    loss = task.training_step((x, None), 0)  # type: ignore[arg-type]
    projected = task.projector(task.net(x))
    assert loss.item() == pytest.approx(nt_xent(projected, projected, 0.5).item(), rel=1e-4)
    loss.backward()
    without = {name for name, parameter in task.named_parameters() if parameter.grad is None}
    assert without == {"probe.weight", "probe.bias"}


def test_fit_ridge_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 2, (20, 50)), rng.normal(3, 1, (20, 4))
    weight, bias = fit_ridge(torch.from_numpy(x), torch.from_numpy(y), penalty=2.5)
    expected = Ridge(alpha=2.5).fit(x, y)
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-9)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-9)


def test_probe_sees_only_its_labels() -> None:
    data = set_up()
    task = Contrastive(data.spec, labels=30)
    before = task._fit_probe(data, nn.Flatten())
    late = data.indices["train"][30:]
    data.samples.y[late] = 9 - data.samples.y[late]  # type: ignore[index]
    for fitted, again in zip(before, task._fit_probe(data, nn.Flatten()), strict=True):
        assert torch.equal(fitted, again)


def test_digits_start_from_contrastive_encoder() -> None:
    pretrained = train("contrastive").run
    names = {"test/accuracy", "test/pixels_accuracy", "test/untrained_accuracy"}
    assert names <= pretrained.metrics.keys()
    result = train("digits", "trainer.max_epochs=0", init=load_run(pretrained.path))
    for name, value in result.run.task.net.body.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, pretrained.task.state_dict()[f"net.body.{name}"]), name
