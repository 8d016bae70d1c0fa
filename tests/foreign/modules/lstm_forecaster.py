import lightning as L
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class WindowDataset(Dataset):
    """Windows of shape (T, F) and the next value of the first feature."""

    def __init__(self, series, seq_len):
        self.series = torch.tensor(series, dtype=torch.float32)
        self.seq_len = seq_len

    def __len__(self):
        return len(self.series) - self.seq_len

    def __getitem__(self, i):
        return self.series[i : i + self.seq_len], self.series[i + self.seq_len, 0]


class SeriesDataModule(L.LightningDataModule):
    def __init__(self, seq_len=24, batch_size=64, n_points=1000, num_workers=0):
        super().__init__()
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.n_points = n_points
        self.num_workers = num_workers

    def setup(self, stage=None):
        rng = np.random.RandomState(0)
        hours = np.arange(self.n_points)
        day, week = 2 * np.pi * hours / 24, 2 * np.pi * hours / 168
        load = np.sin(day) + 0.5 * np.sin(week) + 0.1 * rng.randn(self.n_points)
        series = np.stack([load, np.sin(day), np.cos(day)], axis=1)
        a, b = int(0.7 * self.n_points), int(0.85 * self.n_points)
        self.mean, self.std = series[:a].mean(0), series[:a].std(0)
        series = (series - self.mean) / self.std
        self.train = WindowDataset(series[:a], self.seq_len)
        self.val = WindowDataset(series[a - self.seq_len : b], self.seq_len)
        self.test = WindowDataset(series[b - self.seq_len :], self.seq_len)

    def _loader(self, data, shuffle=False):
        return DataLoader(
            data, batch_size=self.batch_size, shuffle=shuffle, num_workers=self.num_workers
        )

    def train_dataloader(self):
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self):
        return self._loader(self.val)

    def test_dataloader(self):
        return self._loader(self.test)

    def predict_dataloader(self):
        return self._loader(self.test)


class LSTMForecaster(L.LightningModule):
    def __init__(self, n_features=3, hidden_size=32, num_layers=1, dropout=0.0, lr=5e-3):
        super().__init__()
        self.save_hyperparameters()
        self.lstm = nn.LSTM(n_features, hidden_size, num_layers, batch_first=True, dropout=dropout)
        self.linear = nn.Linear(hidden_size, 1)
        self.criterion = nn.HuberLoss()

    def forward(self, x):
        # (B, T, F) -> (B,)
        out, _ = self.lstm(x)
        return self.linear(out[:, -1]).squeeze(1)

    def _step(self, batch, stage):
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self._step(batch, "train")

    def validation_step(self, batch, batch_idx):
        return self._step(batch, "val")

    def test_step(self, batch, batch_idx):
        return self._step(batch, "test")

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        return {"prediction": self(x), "target": y}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
            "monitor": "val_loss",
        }
