"""Make any loader repeatable, check that it repeats, and resume it within an epoch.

A map-style DataLoader keeps its class, samplers, collate function and workers. Its batch sampler
and its data set are wrapped, so that a resumed epoch skips index lists without reading a sample.
Other loaders: see repeatable_stream.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from src.kindling.data.order import derive_seed
from src.kindling.training.attributes import Attributes, is_lost
from src.kindling.training.loader_parts import (
    datasets_of,
    samplers_of,
    seed_own_generators,
)
from src.kindling.training.repeatable_dataset import Batch, Wrapper
from src.kindling.training.seeding import seeded

END = object()
MOST_BYTES_OF_ATTRIBUTES = 2**20
REMEMBERED = 1024  # batches: more than the loaders' workers read ahead


class OrderError(Exception):
    """A loader yields other batches than before the interruption."""


@dataclass(frozen=True)
class Place:
    """A place between two batches of an epoch, from which a loader can continue.

    Attributes:
        cycle: how often the loader was exhausted before in this epoch, as a shorter one of several.
        before: the number of batches of those cycles.
        count: the number of batches of this cycle until here.
        digest: a rolling hash of this cycle's index lists (of a stream: of its batches).
    """

    cycle: int = 0
    before: int = 0
    count: int = 0
    digest: str = ""

    @property
    def number(self) -> int:
        """The number of the next batch in the epoch."""
        return self.before + self.count


class Passed(NamedTuple):
    """A recent place, with the indices of the batch before it and the state of a stream there."""

    place: Place
    indices: Any = None
    state: Any = None


class Repeated(Wrapper):
    """A loader or sampler that yields the same batches in each run of an epoch, from any batch.

    Args:
        wrapped: the original.
        source: the `Loaders` of the training that reads it.
        parts: samplers and data sets by name, whose attributes are saved: one may count epochs.
    """

    has_state = False  # a stream that saves its position
    _source: Any = None
    _epoch = -1

    def __init__(self, wrapped: Any, source: Any, parts: dict[str, Any]) -> None:
        super().__init__(wrapped)
        self._ahead: Iterator[Any] | None = None  # of a resumed epoch, checked
        self._passed: deque[Passed] = deque(maxlen=REMEMBERED)
        self._attributes = Attributes(parts, MOST_BYTES_OF_ATTRIBUTES)
        self._changed: dict[str, Any] = {}  # before the current epoch was begun
        self.follow(source)

    def follow(self, source: Any) -> None:
        """Begin to be read by a training; its author may return the loader of an earlier one."""
        with suppress(ReferenceError):  # that one is over
            if self._source == source:
                return
        # Weak: an iterator lives until its workers have ended, and would keep the Trainer alive.
        self._source, self._seed = weakref.proxy(source), source.seed
        self._passed.clear()
        self._begin(-1, Place())

    @property
    def name(self) -> str:
        """Its name in messages."""
        return type(getattr(self._wrapped, "dataset", self._wrapped)).__name__

    def __iter__(self) -> Iterator[Any]:
        epoch, batches, place = 0, 0, Place()
        with suppress(ReferenceError):
            epoch, batches = self._source.place()
        # Of a resumed epoch that only lacks its validation, nothing is read.
        if self._ahead is not None and epoch == self._epoch:
            return self._ahead
        if batches and epoch == self._epoch:  # again, unless it was only begun: torch does twice
            place = Place(self._place.cycle + (self._place.count > 0), self._place.number)
        self._ahead = None
        self._begin(epoch, place)
        return self.begin_cycle()

    def begin_cycle(self) -> Iterator[Any]:
        """Begin a cycle that is no resumed one."""
        return self.read(0)

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        """Continue within an epoch, and check that its earlier batches were the same.

        Raises:
            OrderError: they were others.
        """
        self._begin(epoch, Place(saved["cycle"], saved["before"]))
        self._ahead = self._read_ahead(self.read(saved["count"]))
        if self._place.digest != saved["digest"]:
            raise OrderError(f"{self.name} yields other batches than before the interruption")

    def _read_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        self._ahead = None
        yield from batches

    def rewind(self) -> None:
        """Read the resumed epoch from its start."""
        self._ahead, self._epoch = None, -1

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue between epochs."""

    def read(self, first: int) -> Iterator[Any]:
        """Begin a cycle of the loader, and return its batches from this one on."""
        raise NotImplementedError

    def _begin(self, epoch: int, place: Place, state: Any = None) -> None:
        if epoch != self._epoch:
            self._passed.clear()
        self._epoch, self._place = epoch, place
        self._passed.append(Passed(place, state=state))

    def _add(self, content: bytes, indices: Any = None, state: Any = None) -> None:
        """Record that the loader yields the next batch."""
        digest = hashlib.blake2b(self._place.digest.encode() + content, digest_size=16).hexdigest()
        self._place = dataclasses.replace(self._place, count=self._place.count + 1, digest=digest)
        self._passed.append(Passed(self._place, indices, state))

    def _seed_of_order(self) -> int:
        cycle = (-self._place.cycle,) if self._place.cycle else ()
        return derive_seed(self._seed, self._epoch, *cycle)

    def _seed_of_batch(self) -> int:
        return derive_seed(self._seed, self._epoch, self._place.number)

    def passed_until(self, batch: int) -> Passed:
        """The newest place at which no more batches of the epoch than these were yielded."""
        found = (one for one in reversed(self._passed) if one.place.number <= batch)
        return next(found, Passed(Place()))

    def state(self, batch: int) -> dict[str, Any]:
        """The state for resuming after `batch` batches of the epoch; 0 at its end."""
        changed = self._changed if batch else self._find_changed()
        return {**dataclasses.asdict(self.passed_until(batch).place), "sampler": changed}

    def _find_changed(self) -> dict[str, Any]:
        """The changed attributes; a data set opens files and fills caches again by itself."""
        found = self._attributes.changed()
        for owner in [name for name in found if name.startswith("dataset")]:
            kept = {name: one for name, one in found.pop(owner).items() if not is_lost(one)}
            found |= {owner: kept} if kept else {}
        return found


class RepeatableSampler(Repeated):
    """A sampler's index lists of an epoch, each with a seed."""

    def __init__(self, wrapped: Any, source: Any, dataset: Any = None) -> None:
        self._samplers = samplers_of(wrapped)
        parts = {str(number): sampler for number, sampler in enumerate(self._samplers)}
        super().__init__(wrapped, source, parts | datasets_of(dataset))

    @property
    def sampler(self) -> Any:
        """The wrapped one, whose `set_epoch` Lightning calls."""
        return self._wrapped

    @property
    def name(self) -> str:
        return type(self._samplers[-1]).__name__

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        self.restore(saved)
        super().resume(epoch, saved)

    def restore(self, saved: dict[str, Any]) -> None:
        self._attributes.restore(saved["sampler"])

    def read(self, first: int) -> Iterator[Batch]:
        self._changed, seed = self._find_changed(), self._seed_of_order()
        for sampler in self._samplers:
            seed_own_generators(sampler, seed)
            if hasattr(sampler, "set_epoch"):  # Lightning does it after the first lists are drawn
                sampler.set_epoch(self._epoch)
        try:
            len(self._wrapped)
        except (TypeError, NotImplementedError):  # perhaps endless
            lists = self._draw_one_by_one(iter(self._wrapped))
        else:
            with seeded(seed):
                lists = iter(list(self._wrapped))
        batches = self._batches(lists)
        for _ in range(first):
            next(batches, None)
        return batches

    def _draw_one_by_one(self, lists: Iterator[Any]) -> Iterator[Any]:
        while True:
            with seeded(self._seed_of_batch()):
                indices = next(lists, END)
            if indices is END:
                return
            yield indices

    def _batches(self, lists: Iterator[Any]) -> Iterator[Batch]:
        for indices in lists:
            seed = self._seed_of_batch()
            self._add(_bytes_of(indices), indices)
            yield Batch(seed, indices)


def _bytes_of(indices: Any) -> bytes:
    """An index list as bytes that are equal in each process."""
    try:
        array = np.asarray(indices)
    except ValueError:  # lists of different lengths
        return repr(indices).encode()
    return repr(indices).encode() if array.dtype.hasobject else array.tobytes()
