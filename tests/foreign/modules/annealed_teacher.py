import copy

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class AnnealedTeacher(L.LightningModule):
    """A loss that depends on the epoch, a teacher set when training starts, and checkpoints."""

    def __init__(self, lr=0.05, decay=0.9):
        super().__init__()
        self.save_hyperparameters()
        self.student = nn.Linear(8, 8)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x):
        return self.teacher(x)

    def configure_callbacks(self):
        return [ModelCheckpoint(save_last=True, every_n_epochs=1)]

    def on_train_start(self):
        self.teacher.load_state_dict(self.student.state_dict())

    def loss(self, z, x):
        beta = 0.1 * self.current_epoch
        return F.mse_loss(z, x) + beta * z.pow(2).mean()

    def training_step(self, batch, batch_idx):
        z = self.student(batch[0])
        return self.loss(z, batch[0]) + F.mse_loss(z, self.teacher(batch[0]))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.data.lerp_(fast.data, 1 - self.hparams.decay)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=self.hparams.lr)


class Blobs(L.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        self.train, self.val = TensorDataset(x[:48]), TensorDataset(x[48:])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=8)
