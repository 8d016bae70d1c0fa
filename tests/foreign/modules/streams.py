"""A stream of readings: as it is, with a state of its data set, or with a loader that has one."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Readings(IterableDataset):
    """Shuffles its readings in a small buffer, as streams do."""

    def __init__(self, size=256, buffer=32):
        self.size, self.buffer = size, buffer

    def indices(self):
        info = get_worker_info()
        return range(self.size)[info.id :: info.num_workers] if info else range(self.size)

    def read(self, index):
        x = torch.linspace(0, 1, 8) * (index % 13) / 13 + 0.1 * torch.randn(8)
        return x, x.square().sum()

    def __iter__(self):
        held = []
        for index in self.indices():
            held.append(index)
            if len(held) == self.buffer:
                yield self.read(held.pop(int(torch.randint(len(held), ()))))
        for index in held:
            yield self.read(index)


class ResumableReadings(Readings):
    """Remembers how many readings it has given; draws each from its number."""

    def __init__(self, size=256):
        super().__init__(size)
        self.given, self.rounds = 0, 0

    def __iter__(self):
        indices = list(self.indices())
        while self.given < len(indices):
            index = indices[self.given]
            generator = torch.Generator().manual_seed(1000 * self.rounds + index)
            self.given += 1
            x = torch.rand(8, generator=generator)
            yield x, x.square().sum()
        self.given, self.rounds = 0, self.rounds + 1

    def state_dict(self):
        return {"given": self.given, "rounds": self.rounds}

    def load_state_dict(self, state):
        self.given, self.rounds = state["given"], state["rounds"]


class ResumableLoader:
    """Batches of tensors in random order, which go on where they were."""

    def __init__(self, tensors, batch_size):
        self.tensors, self.batch_size = tensors, batch_size
        self.epoch, self.batch = 0, 0

    def __len__(self):
        return -(-len(self.tensors[0]) // self.batch_size)

    def __iter__(self):
        if self.batch == len(self):
            self.epoch, self.batch = self.epoch + 1, 0
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.tensors[0]), generator=generator)
        for indices in order.split(self.batch_size)[self.batch :]:
            self.batch += 1
            yield [tensor[indices] for tensor in self.tensors]

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch, self.batch = state["epoch"], state["batch"]


class StreamsData(L.LightningDataModule):
    def __init__(self, state="none", batch_size=16, num_workers=0):
        super().__init__()
        self.state, self.batch_size, self.num_workers = state, batch_size, num_workers

    def train_dataloader(self):
        if self.state == "loader":
            x = torch.rand(256, 8, generator=torch.Generator().manual_seed(3))
            return ResumableLoader([x, x.square().sum(1)], self.batch_size)
        stream = ResumableReadings() if self.state == "dataset" else Readings()
        return DataLoader(stream, self.batch_size, num_workers=self.num_workers)

    def val_dataloader(self):
        x = torch.rand(64, 8, generator=torch.Generator().manual_seed(4))
        return DataLoader(list(zip(x, x.square().sum(1))), self.batch_size)


class Estimator(L.LightningModule):
    def __init__(self, lr=0.02):
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x)[:, 0]

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("train/mse", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/mse", nn.functional.mse_loss(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
