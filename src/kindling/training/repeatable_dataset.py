"""A data set whose samples are drawn from the seed of their batch, in any process."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from src.kindling.data.order import derive_seed, seed_generators
from src.kindling.training.loader_parts import generators_within, seed_generator
from src.kindling.training.seeding import CPU


class Batch(NamedTuple):
    """The item of a wrapped sampler: the seed for reading the samples, and their indices."""

    seed: int
    indices: Any


class Wrapper:
    """Has length and attributes of the object that it wraps; its own begin with `_`."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_wrapped":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._wrapped, name, value)


class RepeatableDataset(Wrapper):
    """A data set whose samples are read with seeded generators, in any process."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._found: tuple[int, list[Any]] = (0, [])  # the process, and the data set's generators

    def _seed(self, seed: int) -> None:
        seed_generators(seed, CPU)
        if self._found[0] != os.getpid():
            self._found = (os.getpid(), generators_within(self._wrapped))
        for number, generator in enumerate(self._found[1]):
            seed_generator(generator, derive_seed(seed, number))

    def __getitems__(self, batch: Batch) -> Any:
        self._seed(batch.seed)
        if hasattr(self._wrapped, "__getitems__"):
            return self._wrapped.__getitems__(batch.indices)
        return [self._wrapped[index] for index in batch.indices]

    def __getitem__(self, batch: Any) -> Any:
        if not isinstance(batch, Batch):  # somebody looks at a sample
            return self._wrapped[batch]
        self._seed(batch.seed)
        return self._wrapped[batch.indices]
