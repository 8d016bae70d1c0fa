"""Denoising diffusion (DDPM): a small U-Net predicts the noise in an image; sampling removes it.

Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, https://arxiv.org/abs/2006.11239,
with the cosine schedule of https://arxiv.org/abs/2102.09672.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torchvision.utils import make_grid

from src.data.digits import Digits
from src.gallery.gan import real_or_fake, sample_gaussian
from src.kindling.analysis import Predictions
from src.kindling.data import Samples, Stage

Batch = tuple[Tensor, Tensor]


class CenteredDigits(Digits):
    """Digits with pixels from -1 to 1; a batch is images `(B, 1, 8, 8)` and digits `(B,)`."""

    def statistics(
        self, samples: Samples, train: Tensor
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        half = samples.max_value / 2
        return (half,), (half,)  # subtract 8, divide by 8

    def images(self, stage: Stage) -> Tensor:
        """All images of a split, `(N, 1, 8, 8)`, from -1 to 1."""
        return self.samples.x[self.indices[stage]] / (self.samples.max_value / 2) - 1


class Block(nn.Module):
    """Two convolutions with a skip connection, the time added between them."""

    def __init__(self, depth: int, next_depth: int, time_depth: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(4, depth), nn.SiLU(), nn.Conv2d(depth, next_depth, 3, padding=1)
        )
        self.time = nn.Linear(time_depth, next_depth)
        self.second = nn.Sequential(
            nn.GroupNorm(4, next_depth), nn.SiLU(), nn.Conv2d(next_depth, next_depth, 3, padding=1)
        )
        self.skip = nn.Conv2d(depth, next_depth, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Maps `(B, depth, H, W)` and times `(B, T)` to `(B, next_depth, H, W)`."""
        h = self.first(x) + self.time(time)[:, :, None, None]
        added: Tensor = self.skip(x) + self.second(h)
        return added


class UNet(nn.Module):
    """Noisy images and their steps to the noise: features of 4 x 4 join those of 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, deep = channels, 2 * channels
        self.time = nn.Sequential(nn.Linear(channels, deep), nn.SiLU(), nn.Linear(deep, deep))
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.before = Block(channels, channels, deep)
        self.down = nn.Conv2d(channels, deep, 4, 2, 1)  # to 4 x 4
        self.middle = Block(deep, deep, deep)
        self.up = nn.ConvTranspose2d(deep, channels, 4, 2, 1)  # to 8 x 8
        self.after = Block(deep, channels, deep)
        self.leave = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Images `(B, 1, 8, 8)` and steps `(B,)` to noise `(B, 1, 8, 8)`."""
        time = self.time(embed(step, self.channels))
        fine = self.before(self.enter(x), time)  # B, channels, 8, 8
        coarse = self.middle(self.down(fine), time)  # B, 2 channels, 4, 4
        joined = torch.cat([fine, self.up(coarse)], dim=1)  # B, 2 channels, 8, 8
        noise: Tensor = self.leave(self.after(joined, time))
        return noise


class Diffusion(LightningModule):
    """Learn to predict the noise in images that are mixed with noise in many small steps.

    `loss` is the mean squared error of the predicted noise; a prediction of zero has 1.
    `real_or_fake` is the accuracy of telling samples from real images: see src/gallery/gan.py.

    Args:
        steps: number of steps from an image to noise, and of network calls for a sample.
        channels: of the U-Net at full size.
        lr: learning rate of Adam.
    """

    alpha_bar: Tensor

    def __init__(self, steps: int = 100, channels: int = 32, lr: float = 2e-3) -> None:
        super().__init__()
        self.steps, self.lr = steps, lr
        self.net = UNet(channels)
        self.register_buffer("alpha_bar", cosine_schedule(steps))
        self.real: list[Tensor] = []  # the images of a test

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Predict the noise in images `(B, 1, 8, 8)` at steps `(B,)` from 0."""
        noise: Tensor = self.net(x, step)
        return noise

    def mix(self, x: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """Images with the noise of a step; their variance stays the same."""
        share = self.alpha_bar[step].reshape(-1, 1, 1, 1)  # of the image
        return share.sqrt() * x + (1 - share).sqrt() * noise

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, _ = batch
        step = torch.randint(self.steps, (len(x),), device=self.device)
        noise = torch.randn_like(x)
        loss = F.mse_loss(self(self.mix(x, noise, step), step), noise)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch[0], "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch[0], "test", batch_idx)
        self.real.append(batch[0])

    def _evaluate(self, x: Tensor, stage: Stage, seed: int) -> None:
        """Log the loss at four steps of each image, with the same noise each time."""
        generator = torch.Generator().manual_seed(seed)
        x = x.repeat(4, 1, 1, 1)
        step = torch.randint(self.steps, (len(x),), generator=generator).to(self.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        loss = F.mse_loss(self(self.mix(x, noise, step), step), noise)
        self.log(f"{stage}/loss", loss, batch_size=len(x), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the samples' quality, and that of a Gaussian fitted to the training pixels."""
        real = torch.cat(self.real)
        self.real.clear()
        data: CenteredDigits = self.trainer.datamodule  # type: ignore[attr-defined]
        gaussian = sample_gaussian(data.images("train") / 2 + 0.5, len(real)).to(real) * 2 - 1
        values = {"": self.sample(len(real))[-1], "gaussian_": gaussian}
        for name, images in values.items():
            self.log(f"test/{name}real_or_fake", real_or_fake(images, real), sync_dist=True)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Denoise noise step by step, `(steps + 1, count, 1, 8, 8)`; the last are the samples."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.steps + 1, count, 1, 8, 8)
        x, *noises = torch.randn(shape, generator=generator).to(self.device)
        trajectory = [x]
        for step, noise in zip(reversed(range(self.steps)), noises, strict=True):
            share = self.alpha_bar[step]
            before = self.alpha_bar[step - 1] if step else torch.ones_like(share)
            predicted = self(x, torch.full((count,), step, device=self.device))
            clean = ((x - (1 - share).sqrt() * predicted) / share.sqrt()).clamp(-1, 1)
            beta = 1 - share / before
            # Mean and variance of the step before, given this one and the predicted clean image.
            mean = before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * x
            x = mean / (1 - share) + (beta * (1 - before) / (1 - share)).sqrt() * noise
            trajectory.append(x)
        return torch.stack(trajectory)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: as many images `generated` `(B, 1, 8, 8)` as the batch has."""
        return {"generated": self.sample(len(batch[0]), seed=batch_idx)[-1]}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot samples, and how some of them emerge from noise."""
        with torch.inference_mode():
            trajectory = self.sample(8).cpu()
        shown = torch.linspace(0, self.steps, 16).long()
        rows = trajectory[shown].transpose(0, 1).flatten(0, 1)  # an image's steps in a row
        generated = torch.from_numpy(predictions["generated"])
        return {
            "samples": draw_images(generated[:200], "Generated images", 20),
            "denoising": draw_images(rows, "From noise to an image", len(shown)),
        }

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), self.lr)


def cosine_schedule(steps: int) -> Tensor:
    """The share of the image's variance that is left after each step, `(steps,)`."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    signal = ((times + 0.008) / 1.008 * math.pi / 2).cos().square()
    keep = (signal[1:] / signal[:-1]).clamp(min=0.001)
    return keep.cumprod(dim=0).float()


def embed(step: Tensor, depth: int) -> Tensor:
    """Sines and cosines of steps `(B,)` at frequencies from 1 to 0.001, `(B, depth)`."""
    frequencies = torch.logspace(0, -3, depth // 2, device=step.device)
    angles = step[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def draw_images(images: Tensor, title: str, across: int) -> Figure:
    """Draw images `(N, 1, 8, 8)` from -1 to 1 in rows of `across`."""
    grid = make_grid(images.clamp(-1, 1), across, padding=1)[0]  # of three equal channels
    height, width = grid.shape
    figure = Figure((7.6, 0.4 + 7.6 * height / width), layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.axis("off")
    return figure
