import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor
from sklearn import datasets, preprocessing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class CountBatches(Callback):
    def __init__(self):
        self.batches = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state_dict):
        self.batches = state_dict["batches"]


class CancerData(L.LightningDataModule):
    def __init__(self, **loader_kwargs):
        super().__init__()
        self.loader_kwargs = loader_kwargs

    def setup(self, stage=None):
        x, y = datasets.load_breast_cancer(return_X_y=True)
        x = torch.tensor(preprocessing.scale(x)).float()
        y = torch.tensor(y).float()
        self.parts = [TensorDataset(x[i::5], y[i::5]) for i in range(5)]

    def train_dataloader(self):
        data = torch.utils.data.ConcatDataset(self.parts[:3])
        return DataLoader(data, shuffle=True, **self.loader_kwargs)

    def val_dataloader(self):
        return DataLoader(self.parts[3], **self.loader_kwargs)

    def test_dataloader(self):
        return DataLoader(self.parts[4], **self.loader_kwargs)


class Model(L.LightningModule):
    def __init__(self, hidden, patience=5, **kwargs):
        super().__init__()
        self.save_hyperparameters()
        self.fc1 = nn.Linear(30, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        self.optimizer_kwargs = kwargs

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))[:, 0]

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.log("val/loss", nn.functional.binary_cross_entropy_with_logits(out, y))
        self.log("val/accuracy", ((out > 0) == y.bool()).float().mean())

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test/accuracy", ((self(x) > 0) == y.bool()).float().mean())

    def configure_callbacks(self):
        early = EarlyStopping("val/loss", patience=self.hparams.patience)
        return [early, LearningRateMonitor(), CountBatches()]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), **self.optimizer_kwargs)
