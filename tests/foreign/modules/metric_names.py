import lightning.pytorch as pl
import torch
import torchmetrics
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class TabularData(pl.LightningDataModule):
    def __init__(self, n_samples=1200, n_classes=4, bs=64):
        super().__init__()
        self.n_samples = n_samples
        self.n_classes = n_classes
        self.bs = bs

    def setup(self, stage=None):
        x, y = make_classification(
            self.n_samples, 20, n_informative=8, n_classes=self.n_classes, random_state=3
        )
        x, y = torch.tensor(x).float(), torch.tensor(y)
        n_train, n_val = int(0.7 * len(x)), int(0.15 * len(x))
        self.train = TensorDataset(x[:n_train], y[:n_train])
        self.valid = TensorDataset(x[n_train : n_train + n_val], y[n_train : n_train + n_val])
        self.test = TensorDataset(x[n_train + n_val :], y[n_train + n_val :])

    def train_dataloader(self):
        return DataLoader(self.train, self.bs, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.valid, self.bs)

    def test_dataloader(self):
        return DataLoader(self.test, self.bs)


class Classifier(pl.LightningModule):
    """Logs by step and by epoch, under names of its own."""

    def __init__(self, n_classes: int = 4, dropout: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Linear(20, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, n_classes)
        )
        self.ce = nn.CrossEntropyLoss(label_smoothing=0.05)
        self.top1 = torchmetrics.Accuracy("multiclass", num_classes=n_classes)
        self.f1 = torchmetrics.F1Score("multiclass", num_classes=n_classes, average="macro")

    def forward(self, x):
        return self.model(x)

    def step(self, batch):
        x, y = batch
        scores = self(x)
        return self.ce(scores, y), scores, y

    def training_step(self, batch, batch_idx):
        loss, scores, y = self.step(batch)
        self.log("fit_loss", loss, on_step=True, on_epoch=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss, scores, y = self.step(batch)
        self.f1.update(scores, y)
        self.log("valid_loss", loss, on_step=True, on_epoch=True)
        self.log("metrics/top1", self.top1(scores, y))  # a value, averaged by Lightning
        return {"valid_loss": loss}

    def on_validation_epoch_end(self):
        self.log("epoch_val_f1", self.f1.compute())
        self.f1.reset()

    def test_step(self, batch, batch_idx):
        loss, scores, y = self.step(batch)
        self.log_dict({"holdout loss": loss, "metrics/holdout_top1": self.top1(scores, y)})

    def configure_optimizers(self):
        opt = torch.optim.RMSprop(self.parameters(), lr=1e-3)
        return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]
