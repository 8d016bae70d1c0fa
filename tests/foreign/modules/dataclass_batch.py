"""Structured batches: a dataclass of tensors instead of a tuple."""

from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from sklearn.datasets import make_friedman1
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection, R2Score
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError


@dataclass
class Batch:
    features: Tensor
    target: Optional[Tensor] = None
    weight: Optional[Tensor] = None

    def __len__(self) -> int:
        return len(self.features)


class FriedmanDataset(Dataset):
    def __init__(self, n: int, seed: int) -> None:
        self.x, self.y = make_friedman1(n, n_features=6, noise=0.5, random_state=seed)
        self.w = np.random.default_rng(seed).uniform(0.5, 1.5, n)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        row = (self.x[index], self.y[index], self.w[index])
        return Batch(*(torch.as_tensor(value, dtype=torch.float32) for value in row))

    @staticmethod
    def collate(items: list[Batch]) -> Batch:
        return Batch(
            features=torch.stack([item.features for item in items]),
            target=torch.stack([item.target for item in items]),
            weight=torch.stack([item.weight for item in items]),
        )


class FriedmanDataModule(LightningDataModule):
    def __init__(self, batch_size: int = 50) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.sets = {
            split: FriedmanDataset(n, seed)
            for seed, (split, n) in enumerate({"train": 1000, "val": 200, "test": 200}.items())
        }

    def _loader(self, split: str) -> DataLoader:
        return DataLoader(
            self.sets[split],
            batch_size=self.batch_size,
            shuffle=split == "train",
            collate_fn=FriedmanDataset.collate,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")


class WeightedRegressor(LightningModule):
    example_input_array = torch.zeros(1, 6)

    def __init__(
        self, hidden_sizes: tuple[int, ...] = (32, 32), learning_rate: float = 5e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = [6, *hidden_sizes]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:]):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        metrics = MetricCollection(
            {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}
        )
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(features).squeeze(-1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        error = self(batch.features) - batch.target
        loss = (batch.weight * error**2).mean()
        self.log("train_loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_metrics.update(self(batch.features), batch.target)
        self.log_dict(self.val_metrics, batch_size=len(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_metrics.update(self(batch.features), batch.target)
        self.log_dict(self.test_metrics, batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
