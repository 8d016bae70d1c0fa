import os

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import DataLoader, TensorDataset
from torchvision.utils import save_image


class WarmUp(L.LightningModule):
    """Its schedules depend on the training's length; it writes images beside its logs."""

    def __init__(self, lr=0.05, warmup_epochs=1):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Linear(16, 4)
        self.decoder = nn.Linear(4, 16)

    def forward(self, x):
        return self.decoder(torch.relu(self.encoder(x)))

    def on_train_start(self):
        self.every = self.trainer.num_training_batches // 2

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch[0]), batch[0])
        if batch_idx % self.every == 0:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x_hat = self(batch[0])
        self.log("val_loss", F.mse_loss(x_hat, batch[0]))
        if batch_idx == 0:
            folder = os.path.join(self.logger.log_dir, "samples")
            os.makedirs(folder, exist_ok=True)
            save_image(x_hat.view(-1, 1, 4, 4), f"{folder}/{self.current_epoch}.png")

    def on_train_epoch_end(self):
        checkpoint = self.trainer.checkpoint_callback
        if checkpoint is not None and checkpoint.best_model_path:
            self.print("best:", checkpoint.best_model_path, checkpoint.best_model_score)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        warmup = int(0.2 * self.trainer.estimated_stepping_batches)
        steps = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        epochs = CosineAnnealingLR(optimizer, self.trainer.max_epochs - self.hparams.warmup_epochs)
        return [optimizer], [{"scheduler": steps, "interval": "step"}, epochs]


class Noise(L.LightningDataModule):
    def train_dataloader(self):
        x = torch.rand(64, 16, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x), batch_size=8, shuffle=True)

    def val_dataloader(self):
        x = torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(x), batch_size=8)
