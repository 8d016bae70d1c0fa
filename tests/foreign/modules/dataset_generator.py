import random

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Shift:
    """Keeps a generator that nobody seeds, as image augmentation libraries do."""

    def __init__(self):
        self.random = random.Random()

    def __call__(self, x):
        return x + self.random.uniform(-1, 1)


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x


class Waves(Dataset):
    def __init__(self, n, augment):
        self.phases = torch.linspace(0, 3, n)
        self.transform = Compose([Shift()]) if augment else None
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.phases)

    def __getitem__(self, index):
        x = torch.sin(torch.arange(16) / 3 + self.phases[index])
        if self.transform is None:
            return x, x
        noise = self.rng.normal(scale=0.2, size=16).astype(np.float32)
        return self.transform(x) + torch.from_numpy(noise), x


class Denoiser(L.LightningModule):
    def __init__(self, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.mse_loss(self(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class WaveData(L.LightningDataModule):
    def setup(self, stage):
        self.train, self.val = Waves(48, True), Waves(16, False)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=8)
