import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Potential(pl.LightningModule):
    """Forces are gradients of the energy, in validation too: needs inference_mode=False."""

    def __init__(self, hidden=8, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.energy = nn.Sequential(nn.Linear(3, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, positions):
        return self.energy(positions)

    def step(self, batch):
        with torch.enable_grad():
            positions = batch[0].requires_grad_(True)
            energy = self(positions)
            forces = -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
        return F.mse_loss(forces, batch[1])

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_force_loss", self.step(batch).detach())

    def test_step(self, batch, batch_idx):
        self.log("test_force_loss", self.step(batch).detach())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class Springs(pl.LightningDataModule):
    def setup(self, stage):
        positions = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(positions, -2 * positions)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=16)

    def test_dataloader(self):
        return self.val_dataloader()
