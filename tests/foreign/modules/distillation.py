from typing import Optional

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional import accuracy


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class DigitsForDistillation(pl.LightningDataModule):
    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: Optional[str] = None):
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x).float() / 16, torch.tensor(y)
        self.train = TensorDataset(x[:1200], y[:1200])
        self.val = TensorDataset(x[1200:1500], y[1200:1500])
        self.test = TensorDataset(x[1500:], y[1500:])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=self.batch_size)


class Distiller(pl.LightningModule):
    """The student is built in `configure_model`; the teacher is fitted in `setup`, then frozen."""

    def __init__(self, width: int = 16, temperature: float = 2.0, alpha: float = 0.7):
        super().__init__()
        self.save_hyperparameters()
        self.teacher = mlp(128)
        self.teacher.requires_grad_(False)
        self.student = None
        self.register_buffer("teacher_is_ready", torch.tensor(False))

    def setup(self, stage: str) -> None:
        if stage != "fit" or self.teacher_is_ready:
            return
        x, y = self.trainer.datamodule.train.tensors
        teacher = self.teacher.requires_grad_(True).train()
        optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
        with torch.enable_grad():
            for _ in range(40):
                optimizer.zero_grad()
                F.cross_entropy(teacher(x), y).backward()
                optimizer.step()
        self.teacher.requires_grad_(False).eval()
        self.teacher_is_ready.fill_(True)

    def configure_model(self) -> None:
        if self.student is None:
            self.student = mlp(self.hparams.width)

    def train(self, mode: bool = True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x):
        return self.student(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        t = self.hparams.temperature
        scores = self(x)
        with torch.no_grad():
            soft = (self.teacher(x) / t).softmax(-1)
        kd = F.kl_div((scores / t).log_softmax(-1), soft, reduction="batchmean") * t * t
        loss = self.hparams.alpha * kd + (1 - self.hparams.alpha) * F.cross_entropy(scores, y)
        self.log_dict({"train/kd": kd, "train/loss": loss})
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/acc", accuracy(self(x), y, task="multiclass", num_classes=10))

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test/acc", accuracy(self(x), y, task="multiclass", num_classes=10))

    def configure_optimizers(self):
        trainable = filter(lambda p: p.requires_grad, self.parameters())
        return torch.optim.Adam(trainable, lr=5e-3)
