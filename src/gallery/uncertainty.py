"""How sure is a prediction: a mean and a variance for each sample, and calibrated intervals."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric, MeanMetric

from src.kindling.analysis import Predictions

Batch = list[Tensor]


class Diabetes(LightningDataModule):
    """442 patients: ten features `(B, 10)`, and the disease's progress after a year `(B,)`.

    Of these, 60 % train, 20 % select the best checkpoint and calibrate, 20 % test. Selecting and
    calibrating on the same patients makes the intervals slightly too narrow; with more data, split
    again.

    Args:
        seed: of the split.
        batch_size: patients in a batch.
        level: share of patients that the intervals of the baseline shall cover.
    """

    def __init__(
        self, seed: int = 0, batch_size: int = 32, level: float = 0.9, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.seed, self.batch_size, self.level = seed, batch_size, level
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        x, y = map(torch.from_numpy, load_diabetes(return_X_y=True))
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed))
        train, val, test = order.tensor_split([266, 354])
        self.mean, self.std = y[train].mean().item(), y[train].std().item()
        scaled = ((x - x[train].mean(dim=0)) / x[train].std(dim=0)).float()
        self.train, self.val, self.test = (
            TensorDataset(scaled[part], y[part].float()) for part in (train, val, test)
        )
        # The baseline knows no features: every patient gets the mean and the variance of training.
        half = conformal_quantile((y[val] - self.mean).abs(), self.level)
        error = y[test] - self.mean
        self.baselines = {
            "baseline_loss": nll(self.std, error).mean().item(),
            "baseline_width": 2 * half.item(),
            "baseline_coverage": (error.abs() <= half).double().mean().item(),
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test)

    def _loader(self, data: TensorDataset, shuffle: bool = False) -> DataLoader[Batch]:
        workers = self.num_workers
        return DataLoader(data, self.batch_size, shuffle=shuffle, num_workers=workers)  # type: ignore[arg-type]


def nll(std: Tensor | float, error: Tensor) -> Tensor:
    """Negative log-likelihood of a Gaussian with this standard deviation, in nats."""
    std = torch.as_tensor(std)
    return std.log() + (error / std).square() / 2 + math.log(2 * math.pi) / 2


def conformal_quantile(scores: Tensor, level: float) -> Tensor:
    """The factor that intervals need to cover a new sample with probability `level`.

    Of n scores `(n,)` that is the ceil((n + 1) * level)-th smallest (split conformal prediction,
    Vovk et al., 2005), whatever the errors' distribution.

    Args:
        scores: |error| / std of samples that were not trained on.
    """
    rank = math.ceil((len(scores) + 1) * level)
    return scores.sort().values[min(rank, len(scores)) - 1]


class MeanVariance(LightningModule):
    """Predict a Gaussian `(mean, std)` for each sample, by an MLP with two outputs.

    After each epoch the intervals, mean ± factor * std, are calibrated on the validation split; the
    checkpoint keeps the factor beside the weights.

    Args:
        mean, std: of the target in training; the net predicts on this scale.
        baselines: metrics of the same mean and variance for all, logged in the test.
        level: share of samples that the intervals shall cover.
        hidden: units of the hidden layer.
        dropout: of the hidden layer.
        lr: of Adam.
    """

    factor: Tensor

    def __init__(
        self,
        mean: float,
        std: float,
        baselines: dict[str, float],
        level: float = 0.9,
        hidden: int = 32,
        dropout: float = 0.2,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(10, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, 2)
        )
        self.mean, self.std, self.level, self.lr = mean, std, level, lr
        self.baselines = baselines
        self.register_buffer("factor", torch.tensor(1.645))  # 90 % of a Gaussian, until calibrated
        self.val_scores = CatMetric()
        self.test_coverage, self.test_width = MeanMetric(), MeanMetric()
        self.example_input_array = torch.zeros(2, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, 10)` to mean and standard deviation in the target's unit, `(B, 2)`."""
        mean, raw = self.net(x).unbind(dim=1)  # each (B,)
        std = F.softplus(raw) + 0.05  # positive, and not so small that one error is infinite
        return torch.stack([self.mean + self.std * mean, self.std * std], dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")
        mean, std = self(batch[0]).unbind(dim=1)
        self.val_scores.update((batch[1] - mean).abs() / std)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")
        mean, std = self(batch[0]).unbind(dim=1)
        self.test_coverage.update(((batch[1] - mean).abs() <= self.factor * std).float())
        self.test_width.update(2 * self.factor * std)
        self.log_dict({"test/coverage": self.test_coverage, "test/width": self.test_width})
        self.log_dict({f"test/{name}": value for name, value in self.baselines.items()})

    def _step(self, batch: Batch, stage: str) -> Tensor:
        x, y = batch
        mean, std = self(x).unbind(dim=1)
        loss = nll(std, y - mean).mean()
        values = {f"{stage}/loss": loss, f"{stage}/mae": (y - mean).abs().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_validation_epoch_end(self) -> None:
        self.factor.copy_(conformal_quantile(self.val_scores.compute(), self.level))
        self.val_scores.reset()
        self.log("val/factor", self.factor)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns `(B,)`: `target`, `prediction`, `std`, `low` and `high`; `coverage`, `width`."""
        x, y = batch
        mean, std = self(x).unbind(dim=1)
        half = self.factor * std
        columns = {"prediction": mean, "std": std, "low": mean - half, "high": mean + half}
        columns |= {"coverage": ((y - mean).abs() <= half).float(), "width": 2 * half}
        return {"target": y, **columns}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot each sample's interval, and for each level which share its intervals cover."""
        figure = Figure((8.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        order = predictions["prediction"].argsort()
        target, mean, std, low, high = (
            predictions[name][order] for name in ("target", "prediction", "std", "low", "high")
        )
        inside, place = (low <= target) & (target <= high), np.arange(len(order))
        left.vlines(place, low, high, color="0.8", label=f"{self.level:.0%} interval")
        left.plot(place, mean, color="tab:blue", label="mean")
        left.scatter(place[inside], target[inside], s=9, color="0.3", label="covered")
        left.scatter(place[~inside], target[~inside], s=12, color="tab:red", label="not covered")
        left.set(xlabel="sample, by predicted mean", ylabel="target")
        left.set_title(f"Covered: {inside.mean():.1%} of {len(order)}", fontsize=10)
        left.legend(fontsize=7)
        levels = np.linspace(0.05, 0.95, 19)
        half = torch.erfinv(torch.from_numpy(levels)).numpy()[:, None] * math.sqrt(2)
        covered = (np.abs(target - mean) / std <= half).mean(axis=1)  # (19,)
        right.plot([0, 1], [0, 1], ":", color="0.6")
        right.plot(levels, covered, marker=".", label="the Gaussian's intervals")
        right.plot(self.level, inside.mean(), "*", ms=12, color="tab:green", label="calibrated")
        right.set(xlabel="level", ylabel="share covered")
        right.set_title("Calibration", fontsize=10)
        right.legend(fontsize=7)
        return {"intervals": figure}

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr, weight_decay=1e-3)
