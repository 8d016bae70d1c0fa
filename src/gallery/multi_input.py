"""Several inputs: how high a digit is in reality, from a photo and the facts of its camera."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanAbsoluteError

from src.kindling.analysis import Predictions, Values
from src.kindling.nn import configure

Batch = dict[str, Tensor]  # image (B, 1, 32, 32), table (B, 2), height (B, 1) in centimeters
LENSES = (28.0, 50.0, 85.0)  # focal lengths in millimeters


class Photos(Dataset[Batch]):
    """Photos of scikit-learn's digits from some distance, with noise.

    In an image, a thing is the higher the longer the lens and the nearer the camera: pixels,
    distance and focal length together give its real height.

    Args:
        glyphs: `(N, 1, 8, 8)`, of which the photos are taken.
        count: number of photos.
        seed: of all that is drawn.
    """

    def __init__(self, glyphs: Tensor, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pixels, distance = rng.integers(8, 25, count), rng.uniform(1, 5, count)
        lens = rng.choice(LENSES, count)
        self.height = torch.from_numpy(10 * pixels * distance / lens).float()[:, None]
        self.table = torch.from_numpy(np.stack([distance, lens], axis=1)).float()
        noise = torch.from_numpy(rng.normal(0, 0.1, (count, 1, 32, 32)))
        self.image = noise.float()
        for number, side in enumerate(pixels.tolist()):
            glyph = glyphs[rng.integers(len(glyphs)), None]
            top, left = rng.integers(33 - side, size=2)
            photo = F.interpolate(glyph, (side, side), mode="bilinear")[0]
            self.image[number, :, top : top + side, left : left + side] += photo

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, i: int) -> Batch:
        return {"image": self.image[i], "table": self.table[i], "height": self.height[i]}


class PhotoData(LightningDataModule):
    """Photos for training, validation and test, of different digits.

    Attributes:
        means, stds: of the table's columns and of the height's logarithm, in training.

    Args:
        photos: how many for training, validation and test.
        batch_size: photos in a batch.
    """

    def __init__(
        self, photos: tuple[int, int, int] = (3000, 500, 500), batch_size: int = 64
    ) -> None:
        super().__init__()
        self.photos, self.batch_size = photos, batch_size

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        pools = images[order].tensor_split([1257, 1527])  # 70, 15 and 15 %
        sources = zip(pools, self.photos, strict=True)
        self.splits = [Photos(pool, count, seed) for seed, (pool, count) in enumerate(sources)]
        numbers = torch.cat([self.splits[0].table, self.splits[0].height.log()], dim=1)  # N, 3
        self.means, self.stds = numbers.mean(dim=0).tolist(), numbers.std(dim=0).tolist()

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.splits[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.splits[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.splits[2], self.batch_size)


class TwoBranchNet(nn.Module):
    """Features of each input, side by side, and a head that predicts a number from them.

    Args:
        inputs: the branches that there are: `image`, `table` or both.
        width: channels of the first convolution.
    """

    def __init__(self, inputs: tuple[str, ...] = ("image", "table"), width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 64), nn.ReLU()]
        branches = {
            "image": nn.Sequential(*layers),
            "table": nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        }
        self.branches = nn.ModuleDict({name: branches[name] for name in inputs})
        features = 64 * len(inputs)
        self.head = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        given = {"image": image, "table": table}
        features = [branch(given[name]) for name, branch in self.branches.items()]  # B, 64 each
        value: Tensor = self.head(torch.cat(features, dim=1))  # B, 1
        return value


class HeightFromPhoto(LightningModule):
    """Regression of a positive number from batches that are dicts.

    Args:
        net: called with an image and a standardized table; predicts the standardized logarithm.
        means, stds: of the table's columns and of the height's logarithm.
        lr: the highest learning rate of a one-cycle schedule.
    """

    monitor, mode = "val/mae", "min"
    means: Tensor
    stds: Tensor

    def __init__(
        self, net: nn.Module, means: list[float], stds: list[float], lr: float = 3e-3
    ) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.outputs = Values(["height (cm)"])
        self.register_buffer("means", torch.tensor(means))
        self.register_buffer("stds", torch.tensor(stds))
        self.mae, self.baseline_mae = MeanAbsoluteError(), MeanAbsoluteError()

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        """Heights `(B, 1)` in centimeters."""
        return (self.means[2] + self.stds[2] * self._predict_log(image, table)).exp()

    def _predict_log(self, image: Tensor, table: Tensor) -> Tensor:
        value: Tensor = self.net(image, (table - self.means[:2]) / self.stds[:2])
        return value

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        target = (batch["height"].log() - self.means[2]) / self.stds[2]
        loss = F.mse_loss(self._predict_log(batch["image"], batch["table"]), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.mae.update(self(batch["image"], batch["table"]), batch["height"])
        self.log("val/mae", self.mae)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.mae.update(self(batch["image"], batch["table"]), batch["height"])
        median = self.means[2].exp().expand_as(batch["height"])
        self.baseline_mae.update(median, batch["height"])
        self.log_dict({"test/mae": self.mae, "test/baseline_mae": self.baseline_mae})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: image, table, prediction and target; predictions with another one's input."""
        image, table = batch["image"], batch["table"]
        return {
            "image": image,
            "table": table,
            "target": batch["height"],
            "prediction": self(image, table),
            "with_other_image": self(image.roll(1, dims=0), table),
            "with_other_table": self(image, table.roll(1, dims=0)),
        }

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """How much the error rises when an input is another photo's, and some photos."""
        names = ("prediction", "with_other_image", "with_other_table")
        errors = [np.abs(predictions[name] - predictions["target"]).mean() for name in names]
        figure = Figure((9, 4.6), layout="constrained")
        parts: Any = figure.subfigures(1, 2, width_ratios=(1, 2))
        bars, photos = parts
        axis = bars.subplots()
        axis.bar(("both right", "other\nimage", "other\ntable"), errors)
        axis.set(ylabel="MAE (cm)")
        for row, panel in enumerate(photos.subplots(2, 4).flat[: len(predictions)]):
            panel.imshow(predictions["image"][row, 0], "gray", vmin=0, vmax=1)
            distance, lens = predictions["table"][row]
            height, found = predictions["target"][row, 0], predictions["prediction"][row, 0]
            panel.set_title(f"{distance:.1f} m, {lens:.0f} mm", fontsize=8)
            panel.set_xlabel(f"true {height:.1f} cm\nfound {found:.1f} cm", fontsize=8)
            panel.set(xticks=[], yticks=[])
        return {"inputs": figure}

    def configure_optimizers(self) -> Any:
        return configure(self, partial(AdamW, lr=self.lr), partial(OneCycleLR, max_lr=self.lr))
