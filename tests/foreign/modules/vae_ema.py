from __future__ import annotations

import copy

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class VAE(nn.Module):
    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.encode = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decode = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decode(z), mean, log_var


class LitVAE(L.LightningModule):
    """Validates an exponential moving average of the weights."""

    def __init__(self, latent: int = 4, hidden: int = 64, ema_decay: float = 0.95):
        super().__init__()
        self.save_hyperparameters()
        self.vae = VAE(latent, hidden)
        self.ema = copy.deepcopy(self.vae).requires_grad_(False)
        self.register_buffer("fixed_z", torch.randn(8, latent), persistent=False)
        self.samples: list[Tensor] = []

    def elbo(self, model: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
        x_hat, mean, log_var = model(x)
        rec = F.binary_cross_entropy_with_logits(x_hat, x, reduction="none").sum(-1).mean()
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        return rec, kl

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        rec, kl = self.elbo(self.vae, batch[0])
        self.log_dict({"train/rec": rec, "train/kl": kl})
        return rec + kl

    @torch.no_grad()
    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        for average, current in zip(self.ema.parameters(), self.vae.parameters(), strict=True):
            average.lerp_(current, 1 - self.hparams.ema_decay)

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        self.samples.append(self.ema.decode(self.fixed_z).sigmoid().cpu())
        self.log("sample_std", self.samples[-1].std(0).mean())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        rec, kl = self.elbo(self.ema, batch[0])
        self.log_dict({"val/loss": rec + kl, "val/rec": rec, "val/kl": kl})

    def configure_optimizers(self):
        return torch.optim.Adam(self.vae.parameters(), lr=3e-3)


class BinaryDigits(L.LightningDataModule):
    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str | None = None) -> None:
        x = torch.tensor(load_digits().data > 7).float()
        self.train, self.val = TensorDataset(x[:1500]), TensorDataset(x[1500:])

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size)
