"""A GAN on a ring of Gaussians, after the Lightning GAN tutorial (manual optimization)."""

import math
from collections import OrderedDict

import lightning.pytorch as pl
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Generator(nn.Module):
    def __init__(self, latent_dim, hidden):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 2)
        )

    def forward(self, z):
        return self.model(z)


class Discriminator(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1), nn.Sigmoid()
        )

    def forward(self, points):
        return self.model(points)


class GAN(pl.LightningModule):
    def __init__(
        self,
        latent_dim: int = 8,
        hidden: int = 64,
        lr: float = 0.0002,
        b1: float = 0.5,
        b2: float = 0.999,
        **kwargs,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = Generator(latent_dim, hidden)
        self.discriminator = Discriminator(hidden)
        self.validation_z = torch.randn(8, latent_dim)
        self.example_input_array = torch.zeros(2, latent_dim)

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy(y_hat, y)

    def training_step(self, batch):
        (points,) = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(points.shape[0], self.hparams.latent_dim).type_as(points)
        valid = torch.ones(points.size(0), 1).type_as(points)
        fake = torch.zeros(points.size(0), 1).type_as(points)

        # train generator
        self.toggle_optimizer(optimizer_g)
        self.generated = self(z)
        g_loss = self.adversarial_loss(self.discriminator(self.generated), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)

        # train discriminator
        self.toggle_optimizer(optimizer_d)
        real_loss = self.adversarial_loss(self.discriminator(points), valid)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)
        return OrderedDict(g_loss=g_loss.detach(), d_loss=d_loss.detach())

    def configure_optimizers(self):
        lr, betas = self.hparams.lr, (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=betas)
        return [opt_g, opt_d], []

    def on_train_epoch_end(self):
        sample = self(self.validation_z.to(self.device))
        self.log("sample_radius", sample.norm(dim=1).mean())


class RingDataModule(pl.LightningDataModule):
    def __init__(self, num_points: int = 2048, modes: int = 8, batch_size: int = 128):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        g = torch.Generator().manual_seed(0)
        angle = torch.randint(self.hparams.modes, (self.hparams.num_points,), generator=g)
        angle = angle * 2 * math.pi / self.hparams.modes
        centers = torch.stack([angle.cos(), angle.sin()], 1)
        noise = torch.randn(centers.shape, generator=g)
        self.points = TensorDataset(centers + 0.05 * noise)

    def train_dataloader(self):
        return DataLoader(self.points, self.hparams.batch_size, shuffle=True, drop_last=True)
