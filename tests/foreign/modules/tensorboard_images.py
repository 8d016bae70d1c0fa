import lightning.pytorch as pl
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class DenoisingAutoencoder(pl.LightningModule):
    """Writes its reconstructions straight to TensorBoard."""

    def __init__(self, hidden=16, noise=0.3, lr=0.002):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Conv2d(1, hidden, 3, stride=2, padding=1)
        self.decoder = nn.ConvTranspose2d(hidden, 1, 4, stride=2, padding=1)

    def forward(self, x):
        return torch.sigmoid(self.decoder(F.relu(self.encoder(x))))

    def training_step(self, batch, batch_idx):
        x = batch[0]
        x_hat = self(x + self.hparams.noise * torch.randn_like(x))
        loss = F.mse_loss(x_hat, x)
        self.logger.experiment.add_scalar("Loss/train", loss, self.global_step)
        return loss

    def validation_step(self, batch, batch_idx):
        x = batch[0]
        x_hat = self(x)
        if batch_idx == 0:
            tb = self.logger.experiment
            pairs = torch.cat([x[:4], x_hat[:4]], dim=3)
            tb.add_images("reconstruction", pairs, self.current_epoch)
            tb.add_image("first", pairs[0], self.current_epoch)
            tb.add_histogram("encoder/weight", self.encoder.weight, self.current_epoch)
        self.log("val_loss", F.mse_loss(x_hat, x))

    def on_fit_end(self):
        self.logger.experiment.add_text("note", "finished")
        self.logger.experiment.flush()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class DigitImages(pl.LightningDataModule):
    def __init__(self, batch_size=64):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage=None):
        x = torch.tensor(load_digits().images).float().unsqueeze(1) / 16
        g = torch.Generator().manual_seed(0)
        self.train, self.val = random_split(TensorDataset(x), [0.85, 0.15], generator=g)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)
