"""Make any loader repeat, check that it does, and continue a resumed epoch where it was.

A map-style DataLoader keeps its class, its samplers, its collate function and its workers. Its
batch sampler and its data set are wrapped, so that a resumed epoch skips index lists without
reading a sample. Any other loader continues from its saved `state_dict`, or is read again up to the
batch with which training resumes.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from src.kindling.data.order import seed_generators
from src.kindling.training.attributes import Attributes
from src.kindling.training.loader_parts import (
    length_of,
    samplers_of,
    seed_own_generators,
    stateful_part,
)
from src.kindling.training.position import Position, bytes_of, excerpt_of
from src.kindling.training.seeding import CPU, seeded

END = object()
MOST_BYTES_OF_SAMPLERS = 2**20


class OrderError(Exception):
    """A loader does not give the batches that it gave before the interruption."""


class Source(Protocol):
    """What a loader asks of the training that reads it: see `Loaders`."""

    seed: int

    def place(self) -> tuple[int, int]: ...
    def begin_stream(self) -> None: ...
    def announce(self, line: str) -> None: ...
    def announce_reading(self, reason: str, batches: int) -> None: ...
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
        self.stateful: Any = None  # what saves and restores its place: the loader or its data set
        self.has_state = False

    def __iter__(self) -> Iterator[Any]:
        if self.ahead is not None:
            return self.ahead
        (epoch, batches), position = self.source.place(), self.position
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
            raise OrderError(f"{self.name} gives other batches than before the interruption")

    def _read_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        self.ahead = None
        yield from batches

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
        """What the user calls it in messages."""
        return type(getattr(self.wrapped, "dataset", self.wrapped)).__name__

    def state(self, batch: int) -> dict[str, Any]:
        """What resuming needs when so many batches of the epoch were trained on; 0 at its end."""
        return self.position.state(batch)


class RepeatableSampler(Repeated):
    """A sampler's index lists of an epoch, each with a seed."""

    def __init__(self, wrapped: Any, source: Source) -> None:
        super().__init__(wrapped, source)
        samplers = {str(number): one for number, one in enumerate(samplers_of(wrapped))}
        self.attributes = Attributes(samplers, MOST_BYTES_OF_SAMPLERS)
        self.changed: dict[str, Any] = {}  # before the current order was drawn

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        self.restore(saved)
        super().resume(epoch, saved)

    def restore(self, saved: dict[str, Any]) -> None:
        self.attributes.restore(saved["sampler"])

    def state(self, batch: int) -> dict[str, Any]:
        changed = self.changed if batch else self.attributes.changed()
        return {**super().state(batch), "sampler": changed}

    @property
    def sampler(self) -> Any:
        """The wrapped one, whose `set_epoch` Lightning calls."""
        return self.wrapped

    @property
    def name(self) -> str:
        return type(samplers_of(self.wrapped)[-1]).__name__

    def read(self, first: int) -> Iterator[Batch]:
        self.changed, seed = self.attributes.changed(), self.position.seed_of_order()
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
        self.stateful = stateful_part(wrapped)
        self.has_state = self.stateful is not None
        self.initial = copy.deepcopy(self.stateful.state_dict()) if self.has_state else None
        self.states: deque[Any] = deque(maxlen=4)  # after the newest batches
        self.at_end = False  # it continues from the state at an epoch's end

        # Hugging Face's begin each epoch with the state that was loaded last.
        self.restarts = type(self.stateful).__module__.startswith("datasets.")

    def __iter__(self) -> Iterator[Any]:
        if self.ahead is None:
            if not self.has_state:
                self.source.begin_stream()
            elif self.restarts:
                self.stateful.load_state_dict(self.initial)
        return super().__iter__()

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        reason = "has no state_dict"
        if self.has_state:
            if self._continue(epoch, saved):
                return
            reason = "does not continue where it was from its state_dict"
            self.stateful.load_state_dict(self.initial)
        self.source.announce_reading(f"{self.name} {reason}", saved["before"] + saved["count"])
        super().resume(epoch, saved)

    def _continue(self, epoch: int, saved: dict[str, Any]) -> bool:
        """Continue from the saved state; False if the next batch is known, and another one comes.

        A state may leave out a shuffle buffer.
        """
        self.stateful.load_state_dict(saved["state"])
        self.position.begin(epoch, saved["cycle"], saved["before"])
        self.position.number += saved["count"]
        self.position.digest = saved["digest"]
        batches = self.read(0)
        if saved["next"] is None:
            self.source.announce(f"{self.name} continues from its state_dict, which is not checked")
        else:
            batches = itertools.chain([next(batches, None)], batches)
            if self.position.digest != saved["next"]:
                return False
        self.ahead = self._read_ahead(batches)
        return True

    def rewind(self) -> None:
        super().rewind()
        if self.has_state:
            self.stateful.load_state_dict(self.initial)

    def restore(self, saved: dict[str, Any]) -> None:
        if self.has_state and not self.restarts:
            self.stateful.load_state_dict(saved["state"])
            self.at_end = True

    def read(self, first: int) -> Iterator[Any]:
        seed_generators(self.position.seed_of_order(), CPU)  # its workers' seeds
        batches = self._batches(iter(self.wrapped))
        for number in range(first):
            self.source.report(number, first)
            next(batches, None)
        return batches

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            seed_generators(self.position.seed_of_batch(), CPU)
            batch = next(batches, END)
            if batch is END and self.at_end:  # it was restored to the end of an epoch
                self.stateful.load_state_dict(self.initial)
                batches = iter(self.wrapped)
                batch = next(batches, END)
            self.at_end = False
            if batch is END:
                return
            self.position.add(excerpt_of(batch))
            if self.has_state:
                self.states.append(copy.deepcopy(self.stateful.state_dict()))
            yield batch

    def state(self, batch: int) -> dict[str, Any]:
        place = super().state(batch)
        if not self.has_state:
            return place
        ahead = self.position.number - batch if batch else 0
        now = self.stateful.state_dict() if ahead <= 0 else self.states[-1 - ahead]
        next_digest = self.position.digest_of(batch) if batch else None
        return {**place, "state": copy.deepcopy(now), "next": next_digest}
