"""Loaders of many kinds over the same samples, and a module that records the batches it gets."""

from __future__ import annotations

import itertools
import random
import time
from collections import deque, namedtuple
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchmetrics import MeanMetric

from src.kindling.data.loader import make_loader
from src.kindling.data.order import BatchOrder

SAMPLES = 48
SEEN: list[list[float]] = []  # the first value of each sample, by batch
READ: list[int] = []  # the samples that were read, in this process
SHARED: list[Any] = []  # a loader of all data modules


class Points(Dataset[Tensor]):
    """Samples with noise of all generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Tensor:
        READ.append(index)
        noise = torch.rand(()) + np.random.rand() + random.random()
        return torch.tensor([float(index), float(noise) / 10])


class OrderedPoints(Dataset[Tensor]):
    """Whole batches of samples in Kindling's order."""

    def __getitem__(self, place: tuple[int, int, Tensor]) -> Tensor:
        return torch.stack([Points()[int(index)] for index in place[2]])


class ClockSampler(Sampler[int]):
    """Another order in each process."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng(time.time_ns()).permutation(SAMPLES)
        return iter(order.tolist())


class CountingSampler(Sampler[int]):
    """Its order depends on how often it was read."""

    def __init__(self) -> None:
        self.rounds = 0

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        self.rounds += 1
        return iter(random.Random(self.rounds).sample(range(SAMPLES), SAMPLES))


class OwnGeneratorSampler(Sampler[int]):
    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(self.generator.permutation(SAMPLES).tolist())


class Pairs(Sampler[list[int]]):
    """A batch sampler without a length, which draws from numpy."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(SAMPLES // 6):
            yield np.random.choice(SAMPLES, 6, replace=False).tolist()


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        for index in range(SAMPLES):
            READ.append(index)
            yield torch.tensor([float(index), float(torch.rand(()))])


class ClockStream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        start = time.time_ns() % 1_000_003
        for index in range(SAMPLES):
            yield torch.tensor([float(index), float(start) / 1e6])


class StatefulStream(Stream):
    """Goes on where it was, over several epochs."""

    def __init__(self) -> None:
        self.round, self.next = 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < SAMPLES:
            index = self.next
            self.next += 1
            READ.append(index)
            yield torch.tensor([float(index + self.round), float(torch.rand(()))])
        self.round, self.next = self.round + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"round": self.round, "next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.round, self.next = state["round"], state["next"]


class StatefulLoader(DataLoader[Any]):
    """A map-style loader with a state of its own."""

    def state_dict(self) -> dict[str, int]:
        return {"ignored": 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        raise AssertionError("its index lists are skipped instead")


def loader_of(kind: str, workers: int) -> Any:
    points, common = Points(), {"batch_size": 6, "num_workers": workers}
    weights = [1.0 + index % 3 for index in range(SAMPLES)]
    samplers = {
        "weighted": lambda: WeightedRandomSampler(weights, SAMPLES),
        "subset": lambda: SubsetRandomSampler(range(0, SAMPLES, 2)),
        "own generator": OwnGeneratorSampler,
        "torch generator": lambda: RandomSampler(points, generator=torch.Generator()),
        "counting": CountingSampler,
        "clock": ClockSampler,
    }
    if kind in samplers:
        return DataLoader(points, sampler=samplers[kind](), **common)
    if kind == "shuffled":
        return DataLoader(points, shuffle=True, **common)
    if kind == "batch sampler":
        return DataLoader(points, batch_sampler=Pairs(), num_workers=workers)
    if kind == "nested samplers":
        inner = BatchSampler(OwnGeneratorSampler(), 6, drop_last=False)
        return DataLoader(points, batch_sampler=inner, num_workers=workers)
    if kind == "no batches":
        return DataLoader(points, batch_size=None, shuffle=True, num_workers=workers)
    if kind == "persistent":
        return DataLoader(points, shuffle=True, persistent_workers=workers > 0, **common)
    if kind == "stateful loader":
        return StatefulLoader(points, shuffle=True, **common)
    streams = {"stream": Stream, "clock stream": ClockStream, "stateful stream": StatefulStream}
    return DataLoader(streams[kind](), **common)


class Data(lightning.LightningDataModule):
    def __init__(self, kind: str = "shuffled", workers: int = 0) -> None:
        super().__init__()
        self.kind, self.workers = kind, workers
        self.kept = loader_of("stateful stream", 0)

    def train_dataloader(self) -> Any:
        if self.kind == "shared":
            SHARED[:] = SHARED or [loader_of("shuffled", 0)]
            return SHARED[0]
        if self.kind == "kept stream":
            return self.kept
        if self.kind in ("min_size", "max_size", "max_size_cycle"):
            short = DataLoader(Points(), sampler=SubsetRandomSampler(range(18)), batch_size=6)
            return CombinedLoader({"a": loader_of("shuffled", 0), "b": short}, self.kind)
        if self.kind == "dict":
            return {"a": loader_of("shuffled", 0), "b": loader_of("stream", 0)}
        if self.kind == "one repeats, one does not":
            return [loader_of("shuffled", 0), loader_of("clock", 0)]
        if self.kind == "own order, and one that does not repeat":
            order = BatchOrder(torch.arange(SAMPLES), 6, seed=0)
            return [make_loader(OrderedPoints(), order, 0), loader_of("clock", 0)]
        if self.kind == "reloaded":
            epoch = self.trainer.current_epoch  # type: ignore[union-attr]
            chosen = torch.randperm(SAMPLES)[: 24 + 6 * epoch].tolist()
            return DataLoader(Points(), sampler=SubsetRandomSampler(chosen), batch_size=6)
        return loader_of(self.kind, self.workers)


class ValidatedData(Data):
    """With samples for validation."""

    def val_dataloader(self) -> Any:
        return loader_of("shuffled", 0)


class SharedData(Data):
    """One loader for training and validation."""

    def train_dataloader(self) -> Any:
        SHARED[:] = SHARED or [loader_of(self.kind, self.workers)]
        return SHARED[0]

    val_dataloader = train_dataloader


class NoisyData(Data):
    """Augments whole batches, on the training device."""

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return batch + torch.rand(batch.shape) / 10


Seen = namedtuple("Seen", "step value")


class Memory:
    """An object of the user's own, without a state_dict."""

    def __init__(self) -> None:
        self.items: deque[Seen] = deque(maxlen=5)


class Module(lightning.LightningModule):
    """Keeps plain attributes, which its training depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.losses: list[Tensor] = []
        self.average, self.memory = 0.0, Memory()
        self.noise = np.random.RandomState(3)
        self.counts: dict[int, int] = {}

    def training_step(self, batch: Any, number: int) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else batch
        parts = parts if isinstance(parts, list) else [parts]
        parts = [part.reshape(-1, 2) for part in parts if part is not None]
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            SEEN.append([round(float(value), 4) for part in parts for value in part[:, 0]])
        x = torch.cat(parts) + self.noise.rand() / 10 + self.average / 100
        loss = self.net(x / SAMPLES).square().mean()
        self.losses.append(loss.detach())
        self.average = 0.9 * self.average + 0.1 * float(loss)
        self.memory.items.append(Seen(number, float(loss)))
        self.counts[len(x)] = self.counts.get(len(x), 0) + 1
        self.log("loss", loss, on_epoch=True, on_step=False, batch_size=len(x))
        return loss + sum(seen.value for seen in self.memory.items) * self.net.bias.sum()

    def on_train_start(self) -> None:
        self.losses = []

    def on_train_epoch_end(self) -> None:
        self.log("mean of losses", torch.stack(self.losses).mean())
        self.log("seen", float(sum(self.counts.values())))
        self.losses.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Validated(Module):
    """Collects its validation's values in an attribute, in torchmetrics, and in each step's log."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.own, self.logged = MeanMetric(), MeanMetric()

    def validation_step(self, batch: Tensor, number: int) -> None:
        value = (batch[:, 0] * number).mean()
        self.values.append(value)
        for metric in (self.own, self.logged):
            metric.update(value)
        self.log("val_logged", self.logged)
        self.log("val_step", value, on_step=True, on_epoch=False)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.values).mean())
        self.log("val_own", self.own.compute())
        self.values.clear()
        self.own.reset()


class Simulated(Module):
    """Trains on what a generator yields, whose place cannot be saved."""

    simulation: Iterator[int] | None = None

    def training_step(self, batch: Any, number: int) -> Tensor:
        if self.simulation is None:
            self.simulation = (value for value in itertools.count())
        next(self.simulation)
        return super().training_step(batch, number)


class Counting(lightning.Callback):
    """Counts in a plain attribute."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.batches += 1
        pl_module.log("counted", float(self.batches))


class Manual(Module):
    """Two optimizers and schedulers; one accumulates the gradients of three batches."""

    def __init__(self, plain_optimizer: bool = False, spoiled: int = -1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.second = nn.Linear(2, 1)
        self.plain_optimizer, self.spoiled = plain_optimizer, spoiled

    def training_step(self, batch: Any, number: int) -> Tensor:  # type: ignore[override]
        first, second = self.optimizers(use_pl_optimizer=not self.plain_optimizer)  # type: ignore[misc]
        schedulers: Any = self.lr_schedulers()
        loss = super().training_step(batch, number)
        self.manual_backward(loss)
        if number % 3 == 2:
            first.step()
            first.zero_grad()
            schedulers[0].step()
        other = self.second(batch / SAMPLES).square().mean()
        second.zero_grad()
        self.manual_backward(other * (torch.nan if number == self.spoiled else 1))
        second.step()
        if number % 2:
            schedulers[1].step()
        return loss.detach()

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.Adam(self.net.parameters(), lr=0.01),
            torch.optim.SGD(self.second.parameters(), lr=0.1, momentum=0.9),
        ]
        schedulers = [torch.optim.lr_scheduler.StepLR(one, 2, 0.8) for one in optimizers]
        return optimizers, schedulers
