"""Anomaly detection: trained on normal digits only, it finds those of a class never seen."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC

from src.kindling.analysis import Predictions
from src.kindling.nn import configure

Batch = list[Tensor]  # images (B, 1, 8, 8) from 0 to 1; 1 for an anomaly, else 0: (B,)


class DigitsWithAnomalies(LightningDataModule):
    """scikit-learn's digits; those of one class are in validation and test only.

    Attributes:
        baselines: metrics of simpler scores by name, on the test split.

    Args:
        anomaly: the digit that is missing in training.
        batch_size: images in a batch.
        samples: use so many images; all 1,797 by default.
    """

    def __init__(self, anomaly: int = 8, batch_size: int = 64, samples: int | None = None) -> None:
        super().__init__()
        self.anomaly, self.batch_size, self.samples = anomaly, batch_size, samples

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        if hasattr(self, "splits"):  # Lightning calls this before each stage
            return
        images, digits = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(digits))[: self.samples]
        x = torch.from_numpy(images[order]).float().view(-1, 1, 8, 8) / 16
        y = torch.from_numpy(digits[order] == self.anomaly).long()
        # Normal ones: 60, 20 and 20 %; anomalies: none, half and half.
        normal, anomalous = x[y == 0], x[y == 1]
        train, val, test = normal.tensor_split([6 * len(normal) // 10, 8 * len(normal) // 10])
        val_anomalies, test_anomalies = anomalous.tensor_split(2)
        self.splits = [
            TensorDataset(torch.cat(parts), torch.arange(2).repeat_interleave(lengths_of(parts)))
            for parts in ((train, x[:0]), (val, val_anomalies), (test, test_anomalies))
        ]
        self.baselines = score_baselines(train, *self.splits[2].tensors)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[2], self.batch_size)


def lengths_of(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.tensor([len(part) for part in parts])


def score_baselines(train: Tensor, test: Tensor, labels: Tensor) -> dict[str, float]:
    """AUROC of a PCA's reconstruction error, and of the distance to the nearest training images."""
    known, x = train.flatten(1).numpy(), test.flatten(1).numpy()
    pca = PCA(n_components=12).fit(known)
    errors = np.square(x - pca.inverse_transform(pca.transform(x))).mean(axis=1)
    distances, _ = NearestNeighbors(n_neighbors=3).fit(known).kneighbors(x)
    scores = {"pca_auroc": errors, "neighbor_auroc": distances.mean(axis=1)}
    return {name: float(roc_auc_score(labels, score)) for name, score in scores.items()}


class DenoisingAutoencoder(nn.Module):
    """Reconstruct images `(B, 1, 8, 8)` from noisy ones.

    Args:
        width: units of the three hidden layers.
    """

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before in (64, width, width):
            layers += [nn.Linear(before, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 64))

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.layers(x).view_as(x)
        return reconstruction


class AnomalyDetection(LightningModule):
    """The score of an image is its mean reconstruction error over several noisy copies.

    Noise takes an image away from the normal ones, and the net has learned to bring it back to
    them: an image that was none of them becomes another one. With more noise than in training the
    net has to guess more of the image, and guesses what it has learned.

    Args:
        net: from noisy images to images.
        baselines: metrics of simpler scores by name, logged in the test.
        noise: standard deviation of the noise in training; pixels go from 0 to 1.
        score_noise: that of the noise for a score.
        copies: noisy copies for a score, with the same noise for all images.
        lr: the learning rate at the start of a cosine schedule.
    """

    monitor, mode = "val/auroc", "max"
    noises: Tensor

    def __init__(
        self,
        net: nn.Module,
        baselines: dict[str, float],
        noise: float = 0.2,
        score_noise: float = 0.5,
        copies: int = 16,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.net, self.baselines, self.noise, self.lr = net, baselines, noise, lr
        noises = torch.randn(copies, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noises", score_noise * noises)
        self.auroc = BinaryAUROC()

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(B,)` of images `(B, 1, 8, 8)`: the higher, the more anomalous."""
        copies = x[:, None] + self.noises  # B, copies, 1, 8, 8
        restored = self.net(copies.flatten(0, 1)).view_as(copies)
        scores: Tensor = (restored - x[:, None]).square().mean(dim=(1, 2, 3, 4))
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, _ = batch
        loss = nn.functional.mse_loss(self.net(x + self.noise * torch.randn_like(x)), x)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.auroc.update(self(x), y)
        self.log("val/auroc", self.auroc)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.auroc.update(self(x), y)
        self.log("test/auroc", self.auroc)
        self.log_dict({f"test/{name}": value for name, value in self.baselines.items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `image` and `restored` `(B, 1, 8, 8)`; `anomaly_score` and `anomaly` `(B,)`."""
        x, y = batch
        restored = self.net(x + self.noises[0])
        return {"image": x, "restored": restored, "anomaly_score": self(x), "anomaly": y}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Histograms of the scores, and the images with the highest ones as they are restored."""
        scores, anomaly = predictions["anomaly_score"], predictions["anomaly"]
        histogram = Figure((6, 3), layout="constrained")
        axis = histogram.subplots()
        for kind, name in enumerate(("normal", "anomalous")):
            bins = np.linspace(scores.min(), scores.max(), 40).tolist()
            axis.hist(scores[anomaly == kind], bins, alpha=0.6, label=name)
        axis.set(xlabel="anomaly score", ylabel="images")
        axis.legend(frameon=False)

        images = Figure((9, 4.2), layout="constrained")
        images.suptitle("Test images with the highest scores; below each its reconstruction")
        axes = images.subplots(4, 10)
        for axis in axes.flat:
            axis.set_axis_off()
        for place, row in enumerate(np.argsort(-scores)[:20]):
            line, column = 2 * (place // 10), place % 10
            axes[line, column].imshow(predictions["image"][row, 0], "gray", vmin=0, vmax=1)
            axes[line + 1, column].imshow(predictions["restored"][row, 0], "gray", vmin=0, vmax=1)
            color = "tab:red" if anomaly[row] else "0.4"
            title = "anomalous" if anomaly[row] else "normal"
            axes[line, column].set_title(title, fontsize=8, color=color)
        return {"scores": histogram, "most_anomalous": images}

    def configure_optimizers(self) -> Any:
        schedule: Any = CosineAnnealingLR
        return configure(self, partial(AdamW, lr=self.lr), schedule)
