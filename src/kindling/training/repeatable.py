"""Make any loader repeat, check that it does, and continue a resumed epoch where it was.

A map-style DataLoader keeps its class, its samplers, its collate function and its workers. Its
batch sampler and its data set are wrapped, so that a resumed epoch skips index lists without
reading a sample. Any other loader continues from its saved `state_dict`, or is read again up to the
batch with which training resumes.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from src.kindling.data.order import seed_generators
from src.kindling.training.position import Position, bytes_of, excerpt_of, length_of
from src.kindling.training.seeding import CPU, seeded

END = object()


class OrderError(Exception):
    """A loader does not give the batches that it gave before the interruption."""


class Source(Protocol):
    """What a loader asks of the training that reads it: see `Loaders`."""

    seed: int

    @property
    def cycles(self) -> bool: ...
    def place(self) -> tuple[int, int]: ...
    def report(self, number: int, total: int) -> None: ...


class Batch(NamedTuple):
    """What a wrapped sampler yields: the seed for reading the samples, and their indices."""

    seed: int
    indices: Any


class _Wrapper:
    """Has all other attributes of the object that it wraps."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "wrapped":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class Repeated(_Wrapper):
    """Gives the batches of an epoch again, from any batch."""

    def __init__(self, wrapped: Any, source: Source) -> None:
        super().__init__(wrapped)
        self.source, self.position = source, Position(source.seed)
        self.ahead: Iterator[Any] | None = None  # of a resumed epoch, checked
        self.stateful: Any = None  # what saves and restores where it is: the loader or its data set

    def __iter__(self) -> Iterator[Any]:
        if self.ahead is not None:
            ahead, self.ahead = self.ahead, None
            return ahead
        epoch, batches = self.source.place()
        again = batches and epoch == self.position.epoch
        self.position.begin(epoch, self.position.cycle + 1 if again else 0)
        return self.read(0)

    def resume(self, epoch: int, batch: int, saved: dict[str, Any]) -> None:
        """Continue within an epoch, and check that its earlier batches were the same.

        Raises:
            OrderError: they were others.
        """
        length, cycle = length_of(self.wrapped), 0
        if length and self.source.cycles:
            cycle, batch = divmod(batch, length)
        self.position.begin(epoch, cycle)
        self.ahead = self.read(batch)
        if batch and self.position.digest != saved["digest"]:
            raise OrderError(f"{self.name} gives other batches than before the interruption")

    def rewind(self) -> None:
        """Read the resumed epoch from its start after all."""
        self.ahead, self.position.epoch = None, -1

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue between epochs."""

    def read(self, first: int) -> Iterator[Any]:
        """Begin a cycle of the loader, and return its batches from this one on."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self.wrapped).__name__

    def state(self, batch: int) -> dict[str, Any]:
        """What resuming needs when so many batches of the epoch were trained on; 0 at its end."""
        return {"digest": self.position.digest_before(batch)}


class RepeatableSampler(Repeated):
    """A sampler's index lists of an epoch, each with a seed."""

    @property
    def sampler(self) -> Any:
        """The wrapped one, whose `set_epoch` Lightning calls."""
        return self.wrapped

    @property
    def name(self) -> str:
        return type(_samplers(self.wrapped)[-1]).__name__

    def read(self, first: int) -> Iterator[Batch]:
        position = self.position
        length, seed = length_of(self.wrapped), position.seed_of_order()
        for sampler in _samplers(self.wrapped):
            _seed_own_generators(sampler, seed)
            if hasattr(sampler, "set_epoch"):  # Lightning does it after the first lists are drawn
                sampler.set_epoch(position.epoch)
        lists: Any = self.wrapped
        if length is not None:  # all at once, so that no other draw comes between
            with seeded(seed):
                lists = list(lists)
        before = position.cycle * (length or 0)
        batches = self._batches(iter(lists), before)
        for _ in range(first):
            next(batches, None)
        return batches

    def _batches(self, lists: Iterator[Any], before: int) -> Iterator[Batch]:
        for number, indices in enumerate(lists, start=before):
            self.position.add(number, bytes_of(indices), indices)
            yield Batch(self.position.seed_of_batch(number), indices)


class RepeatableDataset(_Wrapper):
    """A data set whose samples are read with seeded generators, in whichever process."""

    def __getitems__(self, batch: Batch) -> Any:
        seed_generators(batch.seed, CPU)
        if hasattr(self.wrapped, "__getitems__"):
            return self.wrapped.__getitems__(batch.indices)
        return [self.wrapped[index] for index in batch.indices]

    def __getitem__(self, batch: Any) -> Any:
        if not isinstance(batch, Batch):  # somebody looks at a sample
            return self.wrapped[batch]
        seed_generators(batch.seed, CPU)
        return self.wrapped[batch.indices]


class RepeatableStream(Repeated):
    """Any other loader: seeded before each batch, and resumed by its state or by reading again."""

    def __init__(self, wrapped: Any, source: Any) -> None:
        super().__init__(wrapped, source)
        self.stateful = _stateful_part(wrapped)
        self.initial = copy.deepcopy(self.stateful.state_dict()) if self.stateful else None
        self.states: deque[tuple[int, Any]] = deque(maxlen=4)  # after the newest batches
        self.at_end = False  # it continues from the state at an epoch's end

    def resume(self, epoch: int, batch: int, saved: dict[str, Any]) -> None:
        if self.stateful is None:
            super().resume(epoch, batch, saved)
            return
        self.stateful.load_state_dict(saved["state"])
        self.position.begin(epoch, 0)
        seed_generators(self.position.seed_of_order(), CPU)
        self.ahead = self._batches(iter(self.wrapped), batch)

    def rewind(self) -> None:
        super().rewind()
        if self.stateful:
            self.stateful.load_state_dict(self.initial)

    def restore(self, saved: dict[str, Any]) -> None:
        if self.stateful:
            self.stateful.load_state_dict(saved["state"])
            self.at_end = True

    def read(self, first: int) -> Iterator[Any]:
        seed_generators(self.position.seed_of_order(), CPU)  # its workers' seeds
        before = self.position.cycle * (length_of(self.wrapped) or 0)
        batches = self._batches(iter(self.wrapped), before)
        for number in range(first):
            self.source.report(number, first)
            next(batches, None)
        return batches

    def _batches(self, batches: Iterator[Any], number: int) -> Iterator[Any]:
        while True:
            seed_generators(self.position.seed_of_batch(number), CPU)
            batch = next(batches, END)
            if batch is END and self.at_end and number == 0:  # its state was that of an end
                self.stateful.load_state_dict(self.initial)
                batch = next(batches := iter(self.wrapped), END)
            self.at_end = False
            if batch is END:
                return
            if self.stateful:
                self.states.append((number, copy.deepcopy(self.stateful.state_dict())))
            else:
                self.position.add(number, excerpt_of(batch))
            yield batch
            number += 1

    def state(self, batch: int) -> dict[str, Any]:
        if not self.stateful:
            return super().state(batch)
        read_ahead = [state for number, state in self.states if number == batch - 1]
        return {"state": copy.deepcopy(read_ahead[0] if read_ahead else self.stateful.state_dict())}


def _samplers(sampler: Any) -> list[Any]:
    """A sampler, and those that it takes its indices from: the innermost is the last."""
    inner = [
        value
        for name, value in getattr(sampler, "__dict__", {}).items()
        if name in ("sampler", "_sampler", "batch_sampler")
        or isinstance(value, Sampler)
        or (name == "dataset" and hasattr(value, "_sampler"))  # DistributedSamplerWrapper's
    ]
    return [sampler, *(part for value in inner for part in _samplers(value))]


def _seed_own_generators(owner: Any, seed: int) -> None:
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, torch.Generator):
            value.manual_seed(seed)
        elif isinstance(value, random.Random | np.random.RandomState):
            value.seed(seed % 2**32)
        elif isinstance(value, np.random.Generator):
            value.bit_generator.state = type(value.bit_generator)(seed).state


def _stateful_part(loader: Any) -> Any:
    """The loader or its data set, if it can save and restore where it is; else None."""
    if is_stateful(loader):
        return loader
    dataset = getattr(loader, "dataset", None)
    in_workers = getattr(loader, "num_workers", 0) > 0  # which read copies of it
    return dataset if is_stateful(dataset) and not in_workers else None


def is_stateful(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def is_stream(loader: Any) -> bool:
    """Whether a loader has no index lists."""
    map_style = isinstance(loader, DataLoader)
    return not map_style or isinstance(loader.dataset, IterableDataset)
