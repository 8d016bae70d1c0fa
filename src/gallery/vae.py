"""A variational autoencoder: digits to a few latent numbers and back, trained on the ELBO.

Kingma and Welling, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114.
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


class VAE(LightningModule):
    """Encode an image as a Gaussian over latents, decode a draw from it, and maximize the ELBO.

    `loss` is the negative ELBO of an image in nats: the reconstruction's negative log-likelihood
    under a Gaussian with one learned standard deviation for all pixels, plus the KL divergence of
    the latents from a standard normal. `mse` is of a pixel, decoded from the latents' mean.

    Args:
        latent: number of latent dimensions; with 2, the plots show all of the latent space.
        hidden: units of the two hidden layers in the encoder and in the decoder.
        beta: weight of the KL divergence in training; below 1 reconstructs better, samples worse.
        lr: learning rate of Adam.
    """

    def __init__(
        self, latent: int = 2, hidden: int = 256, beta: float = 1.0, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.latent, self.beta, self.lr = latent, beta, lr
        self.encoder = nn.Sequential(nn.Flatten(), *mlp(64, hidden), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(
            *mlp(latent, hidden), nn.Linear(hidden, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))
        )
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, 1, 8, 8)` to the mean and log variance of their latents, each `(B, L)`."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images `(B, 1, 8, 8)` from the mean of their latents."""
        reconstruction: Tensor = self.decoder(self.encode(x)[0])
        return reconstruction

    def elbo(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both terms of the negative ELBO in nats, each `(B,)`: reconstruction and KL."""
        mean, log_var = self.encode(x)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)  # the reparameterization trick
        squares = (self.decoder(z) - x).square().flatten(1) / (2 * self.log_sigma).exp()
        nll = 0.5 * (squares + 2 * self.log_sigma + math.log(2 * math.pi)).sum(dim=1)
        return nll, kl_divergence(mean, log_var)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        nll, kl = self.elbo(batch[0])
        self.log_dict(
            {"train/loss": (nll + kl).mean(), "train/kl": kl.mean()}, on_step=False, on_epoch=True
        )
        return (nll + self.beta * kl).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, stage: Stage) -> None:
        x, _ = batch
        nll, kl = self.elbo(x)
        values = {"loss": nll + kl, "kl": kl, "mse": (self(x) - x).square().flatten(1)}
        self.log_dict(
            {f"{stage}/{name}": value.mean() for name, value in values.items()},
            batch_size=len(x),
            sync_dist=True,
        )

    def on_test_epoch_end(self) -> None:
        """Log the baselines: the training mean, and PCA with as many components as latents."""
        data: DigitPixels = self.trainer.datamodule  # type: ignore[attr-defined]
        train, test = data.images("train"), data.images("test")
        for name, components in (("mean", 0), ("pca", self.latent)):
            self.log(f"test/{name}_mse", pca_error(train, test, components))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `image`, `reconstruction` `(B, 1, 8, 8)`, `latent` `(B, L)`, `digit`, `mse`."""
        x, digit = batch
        columns = {"image": x, "reconstruction": self(x), "latent": self.encode(x)[0]}
        mse = (columns["reconstruction"] - x).square().mean(dim=(1, 2, 3))
        return {**columns, "digit": digit, "mse": mse}

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), self.lr)

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot latents by digit, reconstructions, interpolations between digits, and samples."""
        columns = {name: torch.from_numpy(value) for name, value in predictions.columns.items()}
        latent, digit = columns["latent"], columns["digit"]
        pairs = torch.cat([columns["image"][:20], columns["reconstruction"][:20]])
        first = torch.stack([latent[digit == number][0] for number in sorted(set(digit.tolist()))])
        weights = torch.linspace(0, 1, 16)[:, None]
        steps = [torch.lerp(a, b, weights) for a, b in zip(first, first.roll(-1, 0), strict=True)]
        draws = torch.randn(100, self.latent, generator=torch.Generator().manual_seed(0))
        return {
            "latent_space": self._plot_latents(latent, digit),
            "reconstructions": draw_images(pairs, "Test images above their reconstructions", 20),
            "interpolations": draw_images(
                self._decode(torch.cat(steps)), "From one digit's latents to another's", 16
            ),
            "samples": draw_images(self._decode(draws), "Decoded draws of the prior", 20),
        }

    def _decode(self, latent: Tensor) -> Tensor:
        with torch.inference_mode():
            images: Tensor = self.decoder(latent.to(self.device)).cpu()
        return images

    def _plot_latents(self, latent: Tensor, digit: Tensor) -> Figure:
        """Plot the test images' latents, and what a grid of latents is decoded to."""
        figure = Figure((6.8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        mean, axes = torch.zeros(self.latent), torch.eye(self.latent)
        if self.latent != 2:  # the plane of most variance
            mean = latent.mean(dim=0)
            axes = torch.linalg.svd(latent - mean).Vh[:2]
        flat = (latent - mean) @ axes.T  # N, 2
        for number in sorted(set(digit.tolist())):
            left.scatter(*flat[digit == number].T, s=8, color=f"C{number}", label=str(number))
        figure.legend(title="digit", fontsize=7, loc="outside right upper")
        left.set_title("Latents of the test images", fontsize=10)
        # Quantiles of the normal prior, so that as many draws fall on each image of the grid.
        steps = 2**0.5 * torch.linspace(-0.94, 0.94, 12).erfinv()
        grid = torch.cartesian_prod(-steps, steps).flip(1)  # 144, 2: rows from the top
        images = make_grid(self._decode(mean + grid @ axes), 12, padding=1)[0]
        right.imshow(images, cmap="gray_r", interpolation="nearest")
        right.set_title("A grid of latents, decoded", fontsize=10)
        right.axis("off")
        return figure


def mlp(inputs: int, hidden: int) -> list[nn.Module]:
    """Two hidden layers."""
    return [nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]


def kl_divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence of Gaussians `(B, L)` from the standard normal in nats, `(B,)`."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(dim=1)


def pca_error(train: Tensor, test: Tensor, components: int) -> Tensor:
    """Mean squared error of PCA, fitted to training images `(N, 1, 8, 8)`, on test images."""
    train, test = train.flatten(1), test.flatten(1)
    centered = test - train.mean(dim=0)
    axes = torch.linalg.svd(train - train.mean(dim=0), full_matrices=False).Vh[:components]
    return F.mse_loss(centered @ axes.T @ axes, centered)


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
