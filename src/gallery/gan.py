"""A generative adversarial network: two nets with an optimizer each, trained in turn.

Goodfellow et al., Generative Adversarial Nets, https://arxiv.org/abs/1406.2661; the gradient
penalty after https://arxiv.org/abs/1801.04406, the metric after https://arxiv.org/abs/1806.07755.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from src.data.digits import Digits
from src.kindling.analysis import Predictions
from src.kindling.data import Samples, Stage

Batch = tuple[Tensor, Tensor]


class DigitPixels(Digits):
    """Digits with pixels from 0 to 1; a batch is images `(B, 1, 8, 8)` and digits `(B,)`."""

    def statistics(
        self, samples: Samples, train: Tensor
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (0.0,), (samples.max_value,)  # subtract 0, divide by 16

    def images(self, stage: Stage) -> Tensor:
        """All images of a split, `(N, 1, 8, 8)`."""
        return self.samples.x[self.indices[stage]] / self.samples.max_value


class Generator(nn.Sequential):
    """Noise `(B, latent)` to images `(B, 1, 8, 8)` with pixels from 0 to 1."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(latent, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, 64),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        )


class Discriminator(nn.Sequential):
    """Images `(B, 1, 8, 8)` to logits `(B, 1)`: above 0 for those that it takes for real."""

    def __init__(self, hidden: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )


class GAN(LightningModule):
    """Train a discriminator to tell generated from real images, and a generator to deceive it.

    The losses do not measure the images' quality. `real_or_fake` does: the leave-one-out accuracy
    of a nearest-neighbor classifier of as many generated as held-out real images. It is 1 for
    images that are unlike the real ones, and 0.5 for images from the same distribution.

    Args:
        latent: number of noise values that an image is generated from.
        hidden: units of the two hidden layers in the generator and in the discriminator.
        lr: learning rate of both Adams.
        penalty: weight of the squared gradient of the discriminator at real images (R1), which
            keeps it from becoming so steep that the generator learns nothing from it.
        decay: share that the averaged generator, which draws the samples, keeps in each step.
    """

    monitor, mode = "val/real_or_fake", "min"

    def __init__(
        self,
        latent: int = 32,
        hidden: int = 256,
        lr: float = 5e-4,
        penalty: float = 0.3,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # training_step calls the optimizers itself
        self.latent, self.lr, self.penalty = latent, lr, penalty
        self.generator, self.discriminator = Generator(latent, hidden), Discriminator(hidden)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.generator, multi_avg_fn=average, use_buffers=True)
        self.average.requires_grad_(False)
        self.example_input_array = torch.zeros(2, latent)  # of forward, for an export
        self.real: list[Tensor] = []  # the images of an evaluation

    def forward(self, z: Tensor) -> Tensor:
        """Noise `(B, latent)` to images `(B, 1, 8, 8)`."""
        images: Tensor = self.average(z)
        return images

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Generate images `(count, 1, 8, 8)`, the same ones for the same seed and weights."""
        z = torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed))
        return self(z.to(self.device))  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        real = batch[0].detach().requires_grad_()  # for the penalty
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        fake = self.generator(torch.randn(len(real), self.latent, device=self.device))

        self.toggle_optimizer(discriminator_optimizer)  # gradients of its parameters only
        logits = self.discriminator(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = gradient.square().flatten(1).sum(dim=1).mean()
        # -log D(real) - log(1 - D(fake))
        loss = F.softplus(-logits).mean() + F.softplus(self.discriminator(fake.detach())).mean()
        discriminator_optimizer.zero_grad()
        self.manual_backward(loss + self.penalty / 2 * penalty)
        discriminator_optimizer.step()
        self.untoggle_optimizer(discriminator_optimizer)

        self.toggle_optimizer(generator_optimizer)
        generator_loss = F.softplus(-self.discriminator(fake)).mean()  # -log D(fake)
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.untoggle_optimizer(generator_optimizer)
        self.average.update_parameters(self.generator)

        losses = {"discriminator_loss": loss.detach(), "generator_loss": generator_loss.detach()}
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> list[Optimizer]:
        betas = (0.5, 0.99)  # little momentum, since the other net changes too
        nets = self.generator, self.discriminator
        return [Adam(net.parameters(), self.lr, betas) for net in nets]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.real.append(batch[0])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.real.append(batch[0])

    def on_validation_epoch_end(self) -> None:
        real = self._take_real()
        self.log("val/real_or_fake", real_or_fake(self.sample(len(real)), real), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the metric, and that of a Gaussian with the training pixels' mean and covariance."""
        real = self._take_real()
        data: DigitPixels = self.trainer.datamodule  # type: ignore[attr-defined]
        gaussian = sample_gaussian(data.images("train"), len(real)).to(real)
        values = {"": self.sample(len(real)), "gaussian_": gaussian}
        for name, images in values.items():
            self.log(f"test/{name}real_or_fake", real_or_fake(images, real), sync_dist=True)

    def _take_real(self) -> Tensor:
        real = torch.cat(self.real)
        self.real.clear()
        return real

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: as many images `generated` `(B, 1, 8, 8)` as the batch has."""
        return {"generated": self.sample(len(batch[0]), seed=batch_idx)}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot generated images, and the training images that are nearest to some of them."""
        generated = torch.from_numpy(predictions["generated"])
        data: DigitPixels = self.trainer.datamodule  # type: ignore[attr-defined]
        train = data.images("train")
        few = generated[:20]
        nearest = train[torch.cdist(few.flatten(1), train.flatten(1)).argmin(dim=1)]
        return {
            "samples": draw_images(generated[:200], "Generated images", 20),
            "nearest": draw_images(
                torch.cat([few, nearest]), "Generated images above the nearest training images", 20
            ),
        }


def real_or_fake(fake: Tensor, real: Tensor) -> Tensor:
    """Accuracy of telling `N` generated from `N` real images by the nearest of all others, `()`."""
    images = torch.cat([fake, real]).flatten(1).float()
    distances = torch.cdist(images, images).fill_diagonal_(torch.inf)  # 2 N, 2 N
    is_real = torch.arange(len(images), device=images.device) >= len(fake)
    right: Tensor = (is_real[distances.argmin(dim=1)] == is_real).float()
    return right.mean()


def sample_gaussian(images: Tensor, count: int) -> Tensor:
    """Draws of a Gaussian with the images' mean and covariance, cut off at 0 and 1."""
    pixels = images.flatten(1)
    mean, deviation = pixels.mean(dim=0), pixels - pixels.mean(dim=0)
    weights = torch.randn(count, len(pixels), generator=torch.Generator().manual_seed(0))
    draws = mean + weights @ deviation / math.sqrt(len(pixels) - 1)  # of that covariance
    return draws.clamp(0, 1).reshape(count, *images.shape[1:])


def draw_images(images: Tensor, title: str, across: int) -> Figure:
    """Draw images `(N, 1, 8, 8)` in rows of `across`."""
    grid = make_grid(images, across, padding=1, pad_value=0.5)[0]  # of three equal channels
    height, width = grid.shape
    figure = Figure((8.0, 0.4 + 8.0 * height / width), layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.axis("off")
    return figure
