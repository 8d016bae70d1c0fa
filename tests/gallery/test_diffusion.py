"""Denoising diffusion: its schedule, its sampling against a known answer, and that it trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from src.gallery.diffusion import CenteredDigits, Diffusion, UNet, cosine_schedule, embed
from tests.conftest import train


class Oracle(nn.Module):
    """The noise in images of a data set with one image."""

    def __init__(self, image: Tensor, alpha_bar: Tensor) -> None:
        super().__init__()
        self.image, self.alpha_bar = image, alpha_bar

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        share = self.alpha_bar[step].reshape(-1, 1, 1, 1)
        noise: Tensor = (x - share.sqrt() * self.image) / (1 - share).sqrt()
        return noise


def test_cosine_schedule() -> None:
    share = cosine_schedule(100)
    first = (math.cos(0.018 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert share[0].item() == pytest.approx(first)
    assert (share.diff() < 0).all()
    assert 0 < share[-1].item() < 1e-5


def test_mix_keeps_the_variance() -> None:
    torch.manual_seed(0)
    task = Diffusion(channels=4)
    x, noise = torch.randn(2, 100, 1, 8, 8)
    for step in (0, 50, 99):
        mixed = task.mix(x, noise, torch.full((100,), step))
        assert mixed.std().item() == pytest.approx(1, abs=0.03)
        share = task.alpha_bar[step].item()
        assert (mixed * x).mean().item() == pytest.approx(math.sqrt(share), abs=0.05)


def test_sampling_with_the_true_noise_returns_the_image() -> None:
    torch.manual_seed(0)
    task, image = Diffusion(steps=20, channels=4), 2 * torch.rand(1, 8, 8) - 1
    task.net = Oracle(image, task.alpha_bar)  # type: ignore[assignment]
    trajectory = task.sample(5)
    assert trajectory.shape == (21, 5, 1, 8, 8)
    torch.testing.assert_close(trajectory[-1], image.expand(5, 1, 8, 8))
    # On the way, the images are distributed as the training mixes them.
    halfway = task.sample(4000, seed=1)[10]  # ten steps are left: the last of them has number 9
    share = task.alpha_bar[9]
    torch.testing.assert_close(halfway.mean(dim=0), share.sqrt() * image, atol=0.06, rtol=0)
    torch.testing.assert_close(halfway.var(), (1 - share) + share * image.var(), atol=0.05, rtol=0)


def test_loss_of_zero_noise_is_one() -> None:
    task, logged = Diffusion(channels=4), {}
    task.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign,assignment]
    task.net = nn.Module()  # type: ignore[assignment]
    task.net.forward = lambda x, step: torch.zeros_like(x)  # type: ignore[method-assign,assignment]
    task.validation_step((torch.rand(64, 1, 8, 8), torch.zeros(64)), 0)
    assert logged["val/loss"].item() == pytest.approx(1, abs=0.03)


def test_time_reaches_the_output() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8)
    net = UNet(8)
    first, second = (net(x, torch.full((3,), step)) for step in (0, 40))
    assert first.shape == x.shape
    assert (first - second).abs().mean() > 1e-3
    expected = [math.sin(5), math.sin(0.005), math.cos(5), math.cos(0.005)]
    assert embed(torch.tensor([5]), 4)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_pixels_are_from_minus_1_to_1() -> None:
    data = CenteredDigits(split=(60, 20, 20))
    data.setup()
    x, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    torch.testing.assert_close(x, data.images("val")[: len(x)])


def test_diffusion_trains() -> None:
    result = train("diffusion", "task.steps=5", "task.channels=4")
    names = {"val/loss", "test/loss", "test/real_or_fake", "test/gaussian_real_or_fake"}
    assert names == result.metrics.keys()
