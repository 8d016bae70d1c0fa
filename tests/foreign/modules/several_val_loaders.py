import lightning as L
import torch
from sklearn.datasets import make_moons
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def moons(n, noise, seed):
    x, y = make_moons(n, noise=noise, random_state=seed)
    return TensorDataset(torch.from_numpy(x).float(), torch.from_numpy(y).float())


class MoonsDataModule(L.LightningDataModule):
    """Trained on clean moons, validated in and out of domain."""

    def __init__(self, batch_size=64):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(moons(1000, 0.1, seed=0), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        clean, noisy = moons(200, 0.1, seed=1), moons(300, 0.4, seed=2)
        return [DataLoader(clean, self.batch_size), DataLoader(noisy, self.batch_size)]

    def test_dataloader(self):
        clean, noisy = moons(200, 0.1, seed=3), moons(300, 0.4, seed=4)
        return [DataLoader(clean, self.batch_size), DataLoader(noisy, self.batch_size)]


class MoonsClassifier(L.LightningModule):
    def __init__(self, hidden=32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 1),
            nn.Flatten(0),
        )
        self.criterion = nn.BCEWithLogitsLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        self.log("val_loss", self.criterion(self(x), y))  # Lightning adds /dataloader_idx_N

    def test_step(self, batch, batch_idx, dataloader_idx):
        x, y = batch
        name = ["clean", "noisy"][dataloader_idx]
        loss = self.criterion(self(x), y)
        self.log(f"test_loss_{name}", loss, add_dataloader_idx=False)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return [optimizer], [scheduler]
