import itertools

import lightning as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class SineStream(IterableDataset):
    """An endless stream of noisy sine waves with random phase; has no `__len__`."""

    def __init__(self, seed, limit=None):
        self.seed, self.limit = seed, limit

    def __iter__(self):
        info = get_worker_info()
        rng = np.random.default_rng(self.seed + (info.id if info else 0))
        steps = range(self.limit) if self.limit else itertools.count()
        t = np.linspace(0, 2 * np.pi, 33)
        for _ in steps:
            wave = np.sin(t * rng.uniform(0.5, 2) + rng.uniform(0, 2 * np.pi))
            wave = (wave + rng.normal(0, 0.02, t.shape)).astype(np.float32)
            yield torch.from_numpy(wave[:-1]), torch.from_numpy(wave[-1:])


class StreamData(pl.LightningDataModule):
    def __init__(self, batch_size=32, seed=0):
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self):
        return DataLoader(SineStream(self.seed), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(SineStream(self.seed + 1000, limit=256), batch_size=self.batch_size)


class NextValue(pl.LightningModule):
    def __init__(self, width=64, lr=1e-3, max_steps=100):
        super().__init__()
        self.save_hyperparameters()
        self.conv = torch.nn.Conv1d(1, 8, 5, padding=2)
        self.out = torch.nn.Sequential(
            torch.nn.Linear(8 * 32, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
        )

    def forward(self, x):
        h = self.conv(x[:, None]).relu()
        return self.out(h.flatten(1))

    def training_step(self, batch, _):
        x, y = batch
        loss = (self(x) - y).pow(2).mean()
        self.log("train/mse", loss)
        return loss

    def validation_step(self, batch, _):
        x, y = batch
        self.log("val/mse", (self(x) - y).pow(2).mean())

    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        sched = torch.optim.lr_scheduler.OneCycleLR(
            opt, max_lr=10 * self.hparams.lr, total_steps=self.hparams.max_steps
        )
        return {"optimizer": opt, "lr_scheduler": {"scheduler": sched, "interval": "step"}}
