"""A module that keeps what it learns about its training in plain attributes."""

from collections import deque

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class WaveData(L.LightningDataModule):
    def __init__(self, batch_size=16, num_workers=0):
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers
        x = torch.linspace(-3, 3, 320)[:, None]
        self.data = TensorDataset(x, (2 * x).sin())

    def train_dataloader(self):
        data = torch.utils.data.Subset(self.data, range(256))
        return DataLoader(data, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        data = torch.utils.data.Subset(self.data, range(256, 320))
        return DataLoader(data, self.batch_size)


class AdaptiveRegressor(L.LightningModule):
    def __init__(self, lr=0.02, seed=11):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
        self.seen = 0
        self.mean_loss = None  # exponential moving average
        self.last_losses = deque(maxlen=5)
        self.noise_rng = np.random.RandomState(seed)
        self.mask_generator = torch.Generator().manual_seed(seed)
        self.training_step_outputs = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        scale = 0.1 / (1 + self.seen / 100)
        x = x + torch.from_numpy(self.noise_rng.normal(0, scale, x.shape)).to(x)
        kept = (torch.rand(len(x), generator=self.mask_generator) > 0.1).to(x.device)
        losses = F.mse_loss(self(x), y, reduction="none")[kept]
        limit = 3 * self.mean_loss if self.mean_loss else float("inf")
        loss = losses.clamp(max=limit).mean()
        if len(self.last_losses) == 5 and loss > sum(self.last_losses) / 5:
            loss = 0.5 * loss
        self.seen += len(x)
        value = loss.item()
        self.mean_loss = 0.9 * self.mean_loss + 0.1 * value if self.mean_loss else value
        self.last_losses.append(value)
        self.training_step_outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.log("training_epoch_mean", torch.stack(self.training_step_outputs).mean())
        self.training_step_outputs.clear()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.mse_loss(self(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
