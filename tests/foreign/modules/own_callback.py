"""A callback that lowers the noise of the inputs as the loss falls, and is saved with the run."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAccuracy


class NoiseSchedule(Callback):
    """Adds noise to each batch; the noise follows the mean of the losses so far."""

    def __init__(self, start=0.5, seed=0):
        self.level, self.batches = start, 0
        self.rng = np.random.default_rng(seed)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        noise = self.rng.normal(0, self.level, tuple(batch[0].shape))
        batch[0].add_(torch.from_numpy(noise).to(batch[0]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        self.level += (0.5 * outputs["loss"].item() - self.level) / self.batches

    def state_dict(self):
        return {"level": self.level, "batches": self.batches, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state_dict):
        self.level, self.batches = state_dict["level"], state_dict["batches"]
        self.rng.bit_generator.state = state_dict["rng"]


class BlobData(L.LightningDataModule):
    def __init__(self, batch_size=16, num_workers=0):
        super().__init__()
        self.save_hyperparameters()

    def prepare_data(self):
        pass

    def setup(self, stage=None):
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(320) % 2
        x = torch.randn(320, 4, generator=generator) + y[:, None]
        self.train_set = TensorDataset(x[:256], y[:256].float())
        self.val_set = TensorDataset(x[256:], y[256:].float())

    def train_dataloader(self):
        hp = self.hparams
        return DataLoader(self.train_set, hp.batch_size, shuffle=True, num_workers=hp.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.batch_size)


class BlobClassifier(L.LightningModule):
    def __init__(self, lr=0.05):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.train_acc, self.val_acc = BinaryAccuracy(), BinaryAccuracy()

    def forward(self, x):
        return self.net(x)[:, 0]

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.train_acc(logits, y.int())
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return nn.functional.binary_cross_entropy_with_logits(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_acc(self(x), y.int())
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
