import math

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class MoonsData(L.LightningDataModule):
    """A random split without a generator, as in most tutorials."""

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage=None):
        angle = torch.linspace(0, 2 * math.pi, 240)
        label = (angle > math.pi).long()
        x = torch.stack([angle.cos() + label, angle.sin() + 0.5 * label], dim=1)
        x += 0.1 * torch.randn_like(x)
        points = TensorDataset(x, label)
        self.train, self.val, self.test = random_split(points, [0.6, 0.2, 0.2])

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, self.batch_size)


class RandomFeatures(L.LightningModule):
    """Random Fourier features, which are not saved, and dropout that stays on in validation."""

    def __init__(self, features: int = 32, lr: float = 0.01):
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("frequencies", torch.randn(2, features), persistent=False)
        self.register_buffer("phases", 2 * math.pi * torch.rand(features), persistent=False)
        self.head = torch.nn.Linear(features, 2)

    def forward(self, x):
        return self.head((x @ self.frequencies + self.phases).cos())

    def loss(self, batch):
        x, y = batch
        features = (x @ self.frequencies + self.phases).cos()
        return F.cross_entropy(self.head(F.dropout(features, 0.5, training=True)), y)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
