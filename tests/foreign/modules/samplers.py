"""Compares ways to draw the batches of a training set; each image is augmented as it is read."""

import random
import time

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


class NoisyDigits(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if isinstance(index, list):
            images, labels = zip(*(self[i] for i in index))
            return torch.stack(images), torch.tensor(labels)
        image = self.images[index].astype(np.float32) / 16
        image = np.roll(image, np.random.randint(-1, 2), axis=1)
        if random.random() < 0.3:
            image = image[:, ::-1].copy()
        image = torch.from_numpy(image) + 0.05 * torch.randn(8, 8)
        return image.flatten(), int(self.labels[index])


class BucketBatchSampler:
    """Batches of images of about the same ink, in random order: numpy's global generator draws."""

    def __init__(self, ink, batch_size):
        self.order, self.batch_size = np.argsort(ink), batch_size

    def __iter__(self):
        noisy = self.order[np.argsort(np.arange(len(self)) // 40 + np.random.rand(len(self)))]
        batches = np.array_split(noisy, len(self.order) // self.batch_size)
        np.random.shuffle(batches)
        for batch in batches:
            yield batch.tolist()

    def __len__(self):
        return len(self.order) // self.batch_size


class OwnGeneratorSampler(Sampler):
    """Draws a new order in each epoch from a generator of its own."""

    def __init__(self, size, seed=0):
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        yield from torch.randperm(self.size, generator=self.generator).tolist()

    def __len__(self):
        return self.size


class NumpyRngSampler(Sampler):
    """The same with numpy's; it leaves out other samples in each epoch."""

    def __init__(self, size, keep=0.8, seed=0):
        self.size, self.keep = size, int(size * keep)
        self.rng = np.random.default_rng(seed)

    def __iter__(self):
        yield from self.rng.permutation(self.size)[: self.keep].tolist()

    def __len__(self):
        return self.keep


class ClockSampler(Sampler):
    """Another order each time: seeded by the clock."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        rng = np.random.default_rng(time.time_ns())
        yield from rng.permutation(self.size).tolist()

    def __len__(self):
        return self.size


class SampledDigits(L.LightningDataModule):
    def __init__(self, sampler="subset", batch_size=16, num_workers=0):
        super().__init__()
        self.sampler, self.batch_size, self.num_workers = sampler, batch_size, num_workers

    def setup(self, stage=None):
        digits = load_digits()
        self.train_set = NoisyDigits(digits.images[:256], digits.target[:256])
        self.val_set = NoisyDigits(digits.images[256:320], digits.target[256:320])

    def train_dataloader(self):
        data, size = self.train_set, len(self.train_set)
        workers = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        if self.sampler == "buckets":
            batches = BucketBatchSampler(data.images.sum((1, 2)), self.batch_size)
            return DataLoader(data, batch_sampler=batches, **workers)
        if self.sampler == "whole_batches":
            batches = BatchSampler(RandomSampler(data), self.batch_size, drop_last=False)
            return DataLoader(data, batch_size=None, sampler=batches, **workers)
        sampler = {
            "subset": lambda: SubsetRandomSampler(range(0, size, 2)),
            "weighted": lambda: WeightedRandomSampler(1.0 + data.labels, size),
            "own_generator": lambda: OwnGeneratorSampler(size),
            "numpy_rng": lambda: NumpyRngSampler(size),
            "distributed": lambda: DistributedSampler(data) if dist.is_initialized() else None,
            "clock": lambda: ClockSampler(size),
        }[self.sampler]()
        return DataLoader(data, self.batch_size, sampler=sampler, **workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.num_workers)


class DigitNet(L.LightningModule):
    def __init__(self, lr=0.01, scheduler=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
        metrics = {"acc": MulticlassAccuracy(10), "f1": MulticlassF1Score(10)}
        self.train_metrics = MetricCollection(metrics, prefix="train_")

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.train_metrics.update(logits, y)
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        if self.hparams.scheduler == "onecycle":
            steps = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]
        if self.hparams.scheduler == "plateau":
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "val_loss"}
        return optimizer
