"""Forecast the next day of an hourly series with quantiles, from the week before."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from src.kindling.analysis import Predictions

Batch = tuple[Tensor, Tensor]
DAY, WEEK = 24, 168  # hours
QUANTILES = (0.1, 0.5, 0.9)
NORMAL_QUANTILE_LOSS = 0.2500  # of a standard normal's own quantiles, their mean


def simulate(days: int) -> tuple[Tensor, Tensor]:
    """Hourly load `(N,)` of a trend, days, weeks and noise, and the noise's deviation `(N,)`."""
    hours = np.arange(days * DAY)
    day, weekend = 2 * np.pi * hours / DAY, hours // DAY % 7 >= 5
    daily = np.sin(day - 2.2) + 0.4 * np.sin(2 * day - 1.0)
    mean = 60 + 20 * hours / len(hours) + np.where(weekend, 5 * daily - 6, 12 * daily)
    std = 1.5 + 0.7 * daily
    noise = np.random.default_rng(0).normal(0, std)
    return torch.from_numpy(mean + noise).float(), torch.from_numpy(std).float()


def add_calendar(series: Tensor) -> Tensor:
    """The features of each hour, `(N, 5)`: its value, and its place in day and week."""
    hours = torch.arange(len(series))
    angles = [2 * torch.pi * hours / period for period in (DAY, WEEK)]
    places = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.stack([series, *places], dim=1)


class Windows(Dataset[Batch]):
    """Inputs `(T, F)` and the targets `(H,)` that follow, for targets from `first` to `end`.

    Inputs may begin before `first`; targets may not, so that splits share no target.
    """

    def __init__(self, x: Tensor, T: int, H: int, first: int, end: int, stride: int) -> None:
        self.x, self.T, self.H = x, T, H
        self.starts = range(max(first, T), end - H + 1, stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Batch:
        start = self.starts[i]
        return self.x[start - self.T : start], self.x[start : start + self.H, 0]


class Load(LightningDataModule):
    """The oldest 70 % for training, the next 15 % for validation, the newest for test.

    Validation and test forecast each hour once; training starts a window at each hour.

    Args:
        days: length of the series.
        window: hours that a forecast sees, T.
        horizon: hours that it predicts, H.
        batch_size: windows in a batch.
    """

    def __init__(
        self, days: int = 600, window: int = WEEK, horizon: int = DAY, batch_size: int = 64
    ) -> None:
        super().__init__()
        self.days, self.window, self.horizon = days, window, horizon
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        series, std = simulate(self.days)
        x, N = add_calendar(series), len(series)  # (N, F)
        self.features = x.shape[1]
        T, H, ends = self.window, self.horizon, (N * 70 // 100, N * 85 // 100, N)
        self.train = Windows(x, T, H, 0, ends[0], stride=1)
        self.val = Windows(x, T, H, ends[0], ends[1], stride=H)
        self.test = Windows(x, T, H, ends[1], ends[2], stride=H)
        # Seasonal naive: the same hour of the week before. Its error in training scales all others.
        errors = (series[WEEK:] - series[:-WEEK]).abs()
        self.scale = errors[: ends[0] - WEEK].mean().item()
        naive_mase = errors[ends[1] - WEEK :].mean().item() / self.scale
        # A forecast that knew all but the noise would have this loss.
        least_loss = NORMAL_QUANTILE_LOSS * std[ends[1] :].mean().item() / self.scale
        self.references = {"naive_mase": naive_mase, "least_possible_loss": least_loss}

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, windows: Windows, shuffle: bool = False) -> DataLoader[Batch]:
        return DataLoader(windows, self.batch_size, shuffle=shuffle)


class QuantileLoss(nn.Module):
    """The pinball loss of Q levels: its minimum for level q is the target's q-quantile."""

    levels: Tensor

    def __init__(self, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))

    def forward(self, quantiles: Tensor, target: Tensor) -> Tensor:
        """Of quantiles `(B, H, Q)` and target `(B, H)`, the mean."""
        error = target.unsqueeze(-1) - quantiles  # (B, H, Q)
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()


class Forecaster(LightningModule):
    """An MLP over the window that predicts three quantiles of each hour of the horizon.

    Losses and errors are in units of `scale`: the MAE is then the MASE (Hyndman and Koehler, 2006),
    which is below 1 where a forecast is better than the seasonal naive one.

    Args:
        features: F, of each hour; the first is the value.
        window: T, hours that a forecast sees.
        horizon: H, hours that it predicts.
        scale: the seasonal naive forecast's mean absolute error in training.
        references: metrics of a simpler and of a perfect forecast, logged in the test.
        hidden: units of the hidden layer.
        lr: the largest learning rate; it rises for a tenth of the training, then falls to zero.
    """

    def __init__(
        self,
        features: int,
        window: int,
        horizon: int,
        scale: float,
        references: dict[str, float],
        hidden: int = 128,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),  # (B, T * F)
            nn.Linear(window * features, hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, horizon * len(QUANTILES)),
            nn.Unflatten(1, (horizon, len(QUANTILES))),
        )
        self.scale, self.lr, self.loss = scale, lr, QuantileLoss(QUANTILES)
        self.references = references
        self.example_input_array = torch.zeros(2, window, features)

    def forward(self, x: Tensor) -> Tensor:
        """A window `(B, T, F)` to quantiles `(B, H, Q)` in the unit of the value, in order."""
        level = x[..., :1].mean(dim=1, keepdim=True)  # (B, 1, 1): the trend has moved on
        scaled = torch.cat([(x[..., :1] - level) / self.scale, x[..., 1:]], dim=2)
        quantiles: Tensor = self.net(scaled).sort(dim=2).values
        return quantiles * self.scale + level

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")
        self.log_dict({f"test/{name}": value for name, value in self.references.items()})

    def _step(self, batch: Batch, stage: str) -> Tensor:
        x, y = batch
        quantiles = self(x)
        low, median, high = quantiles.unbind(dim=2)  # each (B, H)
        loss: Tensor = self.loss(quantiles / self.scale, y / self.scale)
        mase = (y - median).abs().mean() / self.scale
        coverage = ((low <= y) & (y <= high)).float().mean()  # 0.8 if the quantiles are right
        values = {"loss": loss, "mase": mase, "coverage": coverage}
        values = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target`, `prediction` (the median), `low`, `high` `(B, H)`; `mase` `(B,)`."""
        x, y = batch
        low, median, high = self(x).unbind(dim=2)
        mase = (y - median).abs().mean(dim=1) / self.scale
        return {"target": y, "prediction": median, "low": low, "high": high, "mase": mase}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot a week of forecasts, and how often the truth is below each quantile."""
        figure = Figure((5.6, 3.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
        names = ("low", "prediction", "high")
        first = predictions.take(slice(0, WEEK // predictions["target"].shape[1]))
        target, low, median, high = (first[name].ravel() for name in ("target", *names))  # (hours,)
        hours = np.arange(len(target))
        top.fill_between(hours, low, high, color="tab:blue", alpha=0.25, lw=0, label="10 to 90 %")
        top.plot(hours, median, color="tab:blue", label="median")
        top.plot(hours, target, "k.", markersize=3, label="true")
        top.set(xlabel="hour", ylabel="load")
        figure.legend(fontsize=7, ncols=3, loc="outside upper right")
        for name, level in zip(names, QUANTILES, strict=True):
            share = (predictions["target"] <= predictions[name]).mean(axis=0)  # (H,)
            bottom.plot(np.arange(len(share)) + 1, share, ".-", color="tab:blue")
            bottom.axhline(level, color="0.5", linestyle=":")
        bottom.set(xlabel="hours ahead", ylabel="share below", yticks=QUANTILES)
        return {"forecasts": figure}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
