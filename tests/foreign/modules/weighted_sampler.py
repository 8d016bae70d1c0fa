"""Rare classes are drawn more often, and images are augmented with numpy in `__getitem__`."""

import random

import lightning as L
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassF1Score


class RareDigits(Dataset):
    def __init__(self, images, labels, train):
        self.images, self.labels, self.train = images, labels, train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index].astype(np.float32) / 16
        if self.train:
            image = np.roll(image, np.random.randint(-1, 2, size=2), axis=(0, 1))
            image = image + np.random.normal(0, 0.05, image.shape).astype(np.float32)
            if random.random() < 0.2:
                image = image * (torch.rand(8, 8) > 0.1).numpy()
        return torch.from_numpy(image[None]), int(self.labels[index])


class RareDigitsData(L.LightningDataModule):
    def __init__(self, batch_size=32, sampler_seed=123, num_workers=0):
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.generator = torch.Generator().manual_seed(sampler_seed)

    def setup(self, stage=None):
        digits = load_digits()
        images, labels = digits.images, digits.target
        keep = (labels > 4) | (np.arange(len(labels)) % 5 == 0)  # 0 to 4 become rare
        images, labels = images[keep], labels[keep]
        n = int(0.8 * len(labels))
        self.train_set = RareDigits(images[:n], labels[:n], train=True)
        self.val_set = RareDigits(images[n:], labels[n:], train=False)

    def train_dataloader(self):
        counts = np.bincount(self.train_set.labels)
        weights = 1.0 / counts[self.train_set.labels]
        sampler = WeightedRandomSampler(weights, len(weights), generator=self.generator)
        return DataLoader(
            self.train_set, self.batch_size, sampler=sampler, num_workers=self.num_workers
        )

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.num_workers)


class SmallConvNet(L.LightningModule):
    def __init__(self, num_classes=10, lr=0.003):
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * 16, num_classes),
        )
        self.val_f1 = MulticlassF1Score(num_classes)

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.val_f1(self(images), labels)
        self.log("val_f1", self.val_f1, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
