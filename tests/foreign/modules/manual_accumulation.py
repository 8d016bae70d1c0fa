"""Manual optimization: two optimizers, schedules stepped by hand, gradients of three batches."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric


class SpiralData(L.LightningDataModule):
    def __init__(self, size=256, batch_size=16, num_workers=0):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        t = torch.linspace(0, 6, self.hparams.size)
        noise = torch.randn(self.hparams.size, 2)
        x = torch.stack([t.cos() * t, t.sin() * t], 1) + 0.1 * noise
        self.train_set, self.val_set = TensorDataset(x), TensorDataset(x[::4])

    def train_dataloader(self):
        hp = self.hparams
        return DataLoader(self.train_set, hp.batch_size, shuffle=True, num_workers=hp.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.batch_size)


class TwoOptimizers(L.LightningModule):
    def __init__(self, accumulate=3, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.encoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.1))
        self.decoder = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        self.mean_loss = MeanMetric()

    def forward(self, x):
        return self.decoder(self.encoder(x))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = F.mse_loss(self(x), x)
        self.manual_backward(loss / self.hparams.accumulate)
        self.mean_loss(loss)
        self.log("loss", self.mean_loss, on_epoch=True)
        if (batch_idx + 1) % self.hparams.accumulate == 0:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
            self.lr_schedulers()[0].step()

    def on_train_epoch_end(self):
        self.lr_schedulers()[1].step()

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.log("val_loss", F.mse_loss(self(x), x))

    def configure_optimizers(self):
        first = torch.optim.Adam(self.encoder.parameters(), self.hparams.lr)
        second = torch.optim.SGD(self.decoder.parameters(), self.hparams.lr, momentum=0.9)
        schedules = [
            torch.optim.lr_scheduler.ExponentialLR(first, 0.9),
            torch.optim.lr_scheduler.StepLR(second, 1, 0.5),
        ]
        return [first, second], schedules
