import lightning as L
import torch
from sklearn.datasets import load_diabetes
from torch.utils.data import DataLoader, TensorDataset


class LinearModel(L.LightningModule):
    """As little as Lightning asks for: a training step and an optimizer."""

    def __init__(self, n_features: int, l1: float = 0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(n_features))
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.l1 = l1

    def training_step(self, batch):
        x, y = batch
        loss = ((x @ self.weight + self.bias - y) ** 2).mean() + self.l1 * self.weight.abs().sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4)


class DiabetesData(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        x, y = load_diabetes(return_X_y=True)
        y = (y - y.mean()) / y.std()
        self.data = TensorDataset(torch.tensor(x).float() * 20, torch.tensor(y).float())
        self.n_features = x.shape[1]

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=64, shuffle=True)
