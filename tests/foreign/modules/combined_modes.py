"""Two sites of one study in one training: each mode of CombinedLoader."""

from typing import Optional

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Site(Dataset):
    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 6, generator=generator)
        self.y = self.x @ torch.linspace(-1, 1, 6) + 0.1 * seed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        return self.x[index] + 0.02 * torch.randn(6), self.y[index]


class Sites(L.LightningDataModule):
    def __init__(
        self, mode: Optional[str] = None, sizes=(64, 128), batch_size: int = 8, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        hp = self.hparams
        loaders = {
            f"site{i}": DataLoader(
                Site(size, i), hp.batch_size, shuffle=True, num_workers=hp.num_workers
            )
            for i, size in enumerate(hp.sizes)
        }
        return CombinedLoader(loaders, hp.mode) if hp.mode else loaders

    def val_dataloader(self):
        return DataLoader(Site(32, seed=7), self.hparams.batch_size)


class SharedModel(L.LightningModule):
    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.1))
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.body(x))[:, 0]

    def training_step(self, batch, batch_idx):
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        parts = [part for part in parts if part is not None]
        loss = sum(nn.functional.mse_loss(self(x), y) for x, y in parts) / len(parts)
        self.log("loss", loss, on_epoch=True, batch_size=8)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
