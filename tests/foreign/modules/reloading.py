"""Each epoch trains on a new random subset, which grows and becomes harder."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset


class Curriculum(L.LightningModule):
    def __init__(self, lr=0.05, batch_size=8, num_workers=0):
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(10, 1)

    def setup(self, stage):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(400, 10, generator=generator)
        noise = torch.rand(400, generator=generator)
        y = x.sum(1) + noise * torch.randn(400, generator=generator)
        order = noise[:320].argsort()  # easy ones first
        self.train_set = TensorDataset(x[:320][order], y[:320][order])
        self.val_set = TensorDataset(x[320:], y[320:])

    def forward(self, x):
        return self.linear(x)[:, 0]

    def train_dataloader(self):
        available = 160 + 40 * self.trainer.current_epoch
        chosen = torch.randperm(available)[:120].tolist()
        hp = self.hparams
        data = Subset(self.train_set, chosen)
        return DataLoader(data, hp.batch_size, shuffle=True, num_workers=hp.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.batch_size)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.huber_loss(self(x), y)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.huber_loss(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
