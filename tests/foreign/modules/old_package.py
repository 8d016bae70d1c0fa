import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from torch.utils.data import DataLoader, TensorDataset


class Vocabulary:
    size = 1


class LineData(pl.LightningDataModule):
    def __init__(self, hparams):
        super().__init__()
        self.spec, self.notes, self.samples = "y = x", None, hparams.samples
        self.batch_size, self.vocabulary = hparams.batch_size, Vocabulary()

    def setup(self, stage=None):
        x = torch.linspace(-1, 1, self.samples)[:, None]
        self.points = TensorDataset(x, 2 * x)

    def train_dataloader(self):
        return DataLoader(self.points, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.points, self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.points, self.batch_size)


class LitLine(pl.LightningModule):
    def __init__(self, args, vocabulary, net="linear"):
        super().__init__()
        self.save_hyperparameters(ignore=["vocabulary"])
        self.args, self.net, self.loss = args, net, "mse"
        self.outputs, self.notes, self.mode, self.plot = [], 3, "train", True
        self.layer = torch.nn.Linear(vocabulary.size, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = ((self(x) - y) ** 2).mean()
        self.log("loss/train", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.outputs.append(((self(x) - y) ** 2).mean())

    def on_validation_epoch_end(self):
        self.log("loss/val", torch.stack(self.outputs).mean())
        self.outputs.clear()

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("loss/test", ((self(x) - y) ** 2).mean())

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_callbacks(self):
        return [LearningRateMonitor()]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.args.optimizer.lr)
