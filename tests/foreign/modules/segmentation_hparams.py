from __future__ import annotations

import lightning as L
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class TinyUNet(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.out = nn.Conv2d(2 * channels, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.relu(self.down(x))
        inner = F.relu(self.middle(F.max_pool2d(skip, 2)))
        return self.out(torch.cat([skip, F.relu(self.up(inner))], dim=1))


class Disks(Dataset):
    """Noisy images of one disk, and its mask."""

    def __init__(self, n: int, size: int = 24, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        grid = torch.arange(size).float()
        center = 6 + torch.rand(n, 2, 1, 1, generator=g) * (size - 12)
        radius = 3 + 3 * torch.rand(n, 1, 1, generator=g)
        distance = (grid[None, :, None] - center[:, 0]) ** 2 + (grid - center[:, 1]) ** 2
        self.masks = (distance < radius**2).float()[:, None]
        self.images = self.masks + 0.5 * torch.randn(self.masks.shape, generator=g)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[i], self.masks[i]


class DisksDataModule(L.LightningDataModule):
    def __init__(self, batch_size: int = 16, size: int = 24):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        counts = {"train": 192, "val": 48, "test": 48}
        size = self.hparams.size
        self.disks = {k: Disks(n, size, i) for i, (k, n) in enumerate(counts.items())}

    def train_dataloader(self):
        return DataLoader(self.disks["train"], self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.disks["val"], self.hparams.batch_size)

    def test_dataloader(self):
        return DataLoader(self.disks["test"], self.hparams.batch_size)


def dice(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    guess = (logits > 0).float()
    return 2 * (guess * mask).sum() / (guess.sum() + mask.sum()).clamp(min=1)


class Segmenter(L.LightningModule):
    def __init__(self, net: nn.Module, lr: float = 1e-3, loss: str = "bce") -> None:
        super().__init__()
        self.save_hyperparameters()  # the net too, as Lightning warns
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch, batch_idx):
        image, mask = batch
        logits = self(image)
        loss = F.binary_cross_entropy_with_logits(logits, mask)
        if self.hparams.loss == "bce+dice":
            probability = logits.sigmoid()
            overlap = 2 * (probability * mask).sum() / (probability.sum() + mask.sum())
            loss = loss + 1 - overlap
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_dice", dice(self(batch[0]), batch[1]), prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("test_dice", dice(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
