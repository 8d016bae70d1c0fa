"""The generative adversarial network: its losses, whose weights they reach, and its metric."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.gallery.gan import GAN, real_or_fake, sample_gaussian
from tests.conftest import train


def one_step(task: GAN, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """A training step without a Trainer; what it logs."""
    logged: dict[str, torch.Tensor] = {}
    task.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign,assignment]
    optimizers = task.configure_optimizers()
    task.optimizers = lambda: optimizers  # type: ignore[method-assign,assignment,return-value]
    task.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign,assignment]
    task._trainer = SimpleNamespace(optimizers=optimizers)  # type: ignore[assignment]
    task.training_step((real, torch.zeros(len(real))), 0)
    return logged


def test_losses_by_hand() -> None:
    task = GAN(hidden=8)
    nn.init.zeros_(task.discriminator[-1].weight)  # type: ignore[arg-type]
    nn.init.constant_(task.discriminator[-1].bias, 2.0)  # type: ignore[arg-type]
    task.lr = 0.0  # both losses are of the same discriminator
    losses = one_step(task, torch.rand(6, 1, 8, 8))
    real, fake = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))  # -log D, -log(1 - D)
    assert losses["train/discriminator_loss"].item() == pytest.approx(real + fake)
    assert losses["train/generator_loss"].item() == pytest.approx(real)


def test_penalty_is_the_squared_gradient_at_real_images() -> None:
    gradients = {}
    for penalty in (0.0, 3.0):
        torch.manual_seed(0)
        task = GAN(hidden=8, penalty=penalty)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))  # its gradient is its weight
        task.discriminator = linear  # type: ignore[assignment]
        weight = linear[1].weight
        before, saved = weight.detach().clone(), torch.Tensor.backward
        task.lr = 0.0
        one_step(task, torch.rand(6, 1, 8, 8))
        assert torch.equal(weight, before)
        assert torch.Tensor.backward is saved
        gradients[penalty] = weight.grad
    # 3 / 2 |w|², so 3 w
    torch.testing.assert_close(gradients[3.0] - gradients[0.0], 3 * before)  # type: ignore[operator]


def test_each_loss_reaches_its_net_and_the_average_follows() -> None:
    torch.manual_seed(0)
    task = GAN(hidden=8, decay=0.75)
    first = [value.clone() for value in task.generator.parameters()]
    one_step(task, torch.rand(6, 1, 8, 8))  # the average begins as a copy
    second = [value.detach().clone() for value in task.generator.parameters()]
    assert not any(map(torch.equal, first, second))
    one_step(task, torch.rand(6, 1, 8, 8))
    for average, old, new in zip(
        task.average.parameters(), second, task.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * new.detach())
        assert average.grad is None


def test_real_or_fake_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [10.0]])
    assert real_or_fake(real + 100, real).item() == 1.0  # far away
    assert real_or_fake(real + 0.1, real).item() == 0.0  # copies: the nearest is of the other kind
    # 0 and 1 are nearest to each other, 10 to its copy; of the others only the copy is wrong.
    fake = torch.tensor([[20.0], [21.0], [10.1]])
    assert real_or_fake(fake, real).item() == pytest.approx(4 / 6)


def test_gaussian_has_the_mean_and_covariance() -> None:
    torch.manual_seed(0)
    images = (0.5 + 0.05 * torch.randn(300, 1, 2, 2)).cumsum(dim=3) / 2
    drawn = sample_gaussian(images, 50_000).flatten(1)
    torch.testing.assert_close(drawn.mean(dim=0), images.flatten(1).mean(dim=0), atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), images.flatten(1).T.cov(), atol=1e-4, rtol=0)


def test_samples_repeat_by_seed() -> None:
    task = GAN(hidden=8).eval()
    assert task.sample(5).shape == (5, 1, 8, 8)
    assert torch.equal(task.sample(5, seed=1), task.sample(5, seed=1))
    assert not torch.equal(task.sample(5, seed=1), task.sample(5, seed=2))
    columns = task.predict_step((torch.zeros(3, 1, 8, 8), torch.zeros(3)), 0)
    assert torch.equal(columns["generated"], task.sample(3))


def test_gan_trains() -> None:
    result = train("gan")
    names = {"val/real_or_fake", "test/real_or_fake", "test/gaussian_real_or_fake"}
    assert names == result.metrics.keys()
