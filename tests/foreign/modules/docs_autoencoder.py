import os

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset, random_split


class LitAutoEncoder(L.LightningModule):
    """The autoencoder of 'Lightning in 15 minutes', for 8x8 digits."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8 * 8, 64), nn.ReLU(), nn.Linear(64, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 8 * 8))

    def forward(self, x):
        return self.encoder(x.view(x.size(0), -1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = F.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self._evaluate(batch, "val_loss")

    def test_step(self, batch, batch_idx):
        self._evaluate(batch, "test_loss")

    def _evaluate(self, batch, name):
        x, _ = batch
        x = x.view(x.size(0), -1)
        self.log(name, F.mse_loss(self.decoder(self.encoder(x)), x), prog_bar=True)

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class DigitsDataModule(L.LightningDataModule):
    def __init__(self, data_dir: str = os.getcwd(), batch_size: int = 64):
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size

    def prepare_data(self):
        load_digits()  # comes with scikit-learn, nothing to download

    def setup(self, stage):
        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
        full = TensorDataset(x, torch.tensor(labels))
        train, val, test = random_split(
            full, [1297, 250, 250], generator=torch.Generator().manual_seed(42)
        )
        if stage == "fit":
            self.digits_train, self.digits_val = train, val
        if stage == "test":
            self.digits_test = test
        if stage == "predict":
            self.digits_predict = test

    def train_dataloader(self):
        return DataLoader(self.digits_train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.digits_val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.digits_test, batch_size=self.batch_size)

    def predict_dataloader(self):
        return DataLoader(self.digits_predict, batch_size=self.batch_size)
