"""Prints, but logs nothing."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale
from torch.utils.data import DataLoader, Subset, TensorDataset


class WineData(LightningDataModule):
    def setup(self, stage=None):
        x, y = load_wine(return_X_y=True)
        ds = TensorDataset(torch.tensor(scale(x), dtype=torch.float), torch.tensor(y))
        order = torch.randperm(len(ds), generator=torch.Generator().manual_seed(7)).tolist()
        self.train, self.val = Subset(ds, order[:140]), Subset(ds, order[140:])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=20, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=len(self.val))


class WineNet(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(13, 24), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(24, 3)
        )
        self.right = self.total = 0

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def on_validation_epoch_start(self):
        self.right = self.total = 0

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.right += (self(x).argmax(1) == y).sum().item()
        self.total += len(y)

    def on_validation_epoch_end(self):
        print(f"accuracy {self.right / self.total:.3f}")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
