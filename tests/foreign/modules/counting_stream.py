import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset


class Walks(IterableDataset):
    """Counts its epochs: each has other samples."""

    def __init__(self, n, seed):
        self.n, self.seed, self.epoch = n, seed, 0

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        for _ in range(self.n):
            yield torch.randn(9, generator=generator).cumsum(dim=0)


class NextStep(L.LightningModule):
    def __init__(self, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[:, :-1]), batch[:, -1:])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[:, :-1]), batch[:, -1:]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class WalkData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Walks(48, seed=0), batch_size=8)

    def val_dataloader(self):
        return DataLoader(list(Walks(16, seed=100)), batch_size=8)
