"""Semi-supervised: labeled and unlabeled batches side by side."""

from typing import Dict

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import CombinedLoader
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class SemiDigits(L.LightningDataModule):
    def __init__(self, n_labeled: int = 200, batch_size: int = 32):
        super().__init__()
        self.n_labeled, self.batch_size = n_labeled, batch_size

    def setup(self, stage: str):
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x).float() / 16, torch.tensor(y)
        n = self.n_labeled
        self.labeled = TensorDataset(x[:n], y[:n])
        self.unlabeled = TensorDataset(x[n:1500])
        self.val = TensorDataset(x[1500:], y[1500:])

    def train_dataloader(self) -> Dict[str, DataLoader]:
        return {
            "labeled": DataLoader(self.labeled, self.batch_size, shuffle=True),
            "unlabeled": DataLoader(self.unlabeled, self.batch_size * 2, shuffle=True),
        }

    def val_dataloader(self) -> CombinedLoader:
        return CombinedLoader({"eval": DataLoader(self.val, self.batch_size)}, mode="sequential")

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size)


class PseudoLabel(L.LightningModule):
    def __init__(self, hidden: int = 64, threshold: float = 0.9, unlabeled_weight: float = 0.5):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.example_input_array = torch.rand(1, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Dict[str, list], batch_idx: int) -> Tensor:
        loss = torch.zeros((), device=self.device)
        if batch["labeled"] is not None:  # the shorter loader has ended
            x, y = batch["labeled"]
            loss = loss + F.cross_entropy(self(x), y)
        (u,) = batch["unlabeled"]
        with torch.no_grad():
            confidence, guess = self(u).softmax(-1).max(-1)
        mask = (confidence > self.hparams.threshold).float()
        noisy = u + 0.1 * torch.randn_like(u)
        extra = (F.cross_entropy(self(noisy), guess, reduction="none") * mask).mean()
        loss = loss + self.hparams.unlabeled_weight * extra
        self.log("train_loss", loss, batch_size=len(u))
        self.log("pseudo_labeled", mask.mean(), batch_size=len(u))
        return loss

    def validation_step(self, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(-1) == y).float().mean())

    def test_step(self, batch, batch_idx: int) -> None:
        x, y = batch
        self.log("test_acc", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)
