"""Make any loader repeatable, check that it repeats, and resume it within an epoch.

A map-style DataLoader keeps its class, its samplers, its collate function and its workers. Its
batch sampler and its data set are wrapped, so that a resumed epoch skips index lists without
reading a sample. Other loaders: see repeatable_stream.py.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from src.kindling.data.order import derive_seed, seed_generators
from src.kindling.training.attributes import Attributes, is_lost
from src.kindling.training.loader_parts import (
    datasets_of,
    generators_within,
    length_of,
    samplers_of,
    seed_generator,
    seed_own_generators,
)
from src.kindling.training.position import Position, bytes_of
from src.kindling.training.seeding import CPU, seeded

END = object()
MOST_BYTES_OF_ATTRIBUTES = 2**20


class OrderError(Exception):
    """A loader yields other batches than before the interruption."""


class Batch(NamedTuple):
    """The item of a wrapped sampler: the seed for reading the samples, and their indices."""

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
    """A loader or sampler that yields the same batches in each run of an epoch, from any batch.

    Args:
        wrapped: the original.
        source: the `Loaders` of the training that reads it.
        parts: samplers and data sets by name, whose attributes are saved: one may count epochs.
    """

    def __init__(self, wrapped: Any, source: Any, parts: dict[str, Any]) -> None:
        super().__init__(wrapped)
        self.attributes = Attributes(parts, MOST_BYTES_OF_ATTRIBUTES)
        self.changed: dict[str, Any] = {}  # before the current epoch was begun
        self._source: Callable[[], Any] = lambda: None
        self.follow(source)
        self.ahead: Iterator[Any] | None = None  # of a resumed epoch, checked
        self.stateful: Any = None  # the loader or its data set, if it saves its position
        self.has_state = False

    def follow(self, source: Any) -> None:
        """Begin to be read by a training; its author may return the loader of an earlier one."""
        if self._source() is source:
            return
        self.position = Position(source.seed)
        # Weak: an iterator lives until its workers have ended, and would keep the Trainer alive.
        self._source = weakref.ref(source)

    @property
    def source(self) -> Any:
        """The training that reads the loader.

        Raises:
            ReferenceError: when it is over.
        """
        if (source := self._source()) is None:
            raise ReferenceError("the training that read this loader is over")
        return source

    def __iter__(self) -> Iterator[Any]:
        if self.ahead is not None:
            return self.ahead
        epoch, batches, position = 0, 0, self.position
        with suppress(ReferenceError):
            epoch, batches = self.source.place()
        if batches and epoch == position.epoch:  # again, unless it was only begun: torch does twice
            cycle = position.cycle + (position.number > position.before)
            position.begin(epoch, cycle, position.number)
        else:
            position.begin(epoch, 0, 0)
        return self.read(0)

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        """Continue within an epoch, and check that its earlier batches were the same.

        Raises:
            OrderError: they were others.
        """
        self.position.begin(epoch, saved["cycle"], saved["before"])
        self.ahead = self._read_ahead(self.read(saved["count"]))
        if self.position.digest != saved["digest"]:
            raise OrderError(f"{self.name} yields other batches than before the interruption")

    def _read_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        self.ahead = None
        yield from batches

    def rewind(self) -> None:
        """Read the resumed epoch from its start."""
        self.ahead, self.position.epoch = None, -1

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue between epochs."""

    def read(self, first: int) -> Iterator[Any]:
        """Begin a cycle of the loader, and return its batches from this one on."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Its name in messages."""
        return type(getattr(self.wrapped, "dataset", self.wrapped)).__name__

    def state(self, batch: int) -> dict[str, Any]:
        """The state for resuming after `batch` batches of the epoch; 0 at its end."""
        changed = self.changed if batch else self.find_changed()
        return {**self.position.state(batch), "sampler": changed}

    def find_changed(self) -> dict[str, Any]:
        """The changed attributes; a data set opens files and fills caches again by itself."""
        found = self.attributes.changed()
        for owner in [name for name in found if name.startswith("dataset")]:
            kept = {name: one for name, one in found.pop(owner).items() if not is_lost(one)}
            found |= {owner: kept} if kept else {}
        return found


class RepeatableSampler(Repeated):
    """A sampler's index lists of an epoch, each with a seed."""

    def __init__(self, wrapped: Any, source: Any, dataset: Any = None) -> None:
        samplers = {str(number): one for number, one in enumerate(samplers_of(wrapped))}
        super().__init__(wrapped, source, samplers | datasets_of(dataset))

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        self.restore(saved)
        super().resume(epoch, saved)

    def restore(self, saved: dict[str, Any]) -> None:
        self.attributes.restore(saved["sampler"])

    @property
    def sampler(self) -> Any:
        """The wrapped one, whose `set_epoch` Lightning calls."""
        return self.wrapped

    @property
    def name(self) -> str:
        return type(samplers_of(self.wrapped)[-1]).__name__

    def read(self, first: int) -> Iterator[Batch]:
        self.changed, seed = self.find_changed(), self.position.seed_of_order()
        for sampler in samplers_of(self.wrapped):
            seed_own_generators(sampler, seed)
            if hasattr(sampler, "set_epoch"):  # Lightning does it after the first lists are drawn
                sampler.set_epoch(self.position.epoch)
        if length_of(self.wrapped) is None:  # perhaps endless
            lists = self._draw_one_by_one(iter(self.wrapped))
        else:
            with seeded(seed):
                lists = iter(list(self.wrapped))
        batches = self._batches(lists)
        for _ in range(first):
            next(batches, None)
        return batches

    def _draw_one_by_one(self, lists: Iterator[Any]) -> Iterator[Any]:
        indices = None
        while indices is not END:
            with seeded(self.position.seed_of_batch()):
                indices = next(lists, END)
            if indices is not END:
                yield indices

    def _batches(self, lists: Iterator[Any]) -> Iterator[Batch]:
        for indices in lists:
            seed = self.position.seed_of_batch()
            self.position.add(bytes_of(indices), indices)
            yield Batch(seed, indices)


class RepeatableDataset(_Wrapper):
    """A data set whose samples are read with seeded generators, in any process."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._found: tuple[int, list[Any]] = (0, [])  # the process, and the data set's generators

    def _seed(self, seed: int) -> None:
        seed_generators(seed, CPU)
        if self._found[0] != os.getpid():
            self._found = (os.getpid(), generators_within(self.wrapped))
        for number, generator in enumerate(self._found[1]):
            seed_generator(generator, derive_seed(seed, number))

    def __getitems__(self, batch: Batch) -> Any:
        self._seed(batch.seed)
        if hasattr(self.wrapped, "__getitems__"):
            return self.wrapped.__getitems__(batch.indices)
        return [self.wrapped[index] for index in batch.indices]

    def __getitem__(self, batch: Any) -> Any:
        if not isinstance(batch, Batch):  # somebody looks at a sample
            return self.wrapped[batch]
        self._seed(batch.seed)
        return self.wrapped[batch.indices]
