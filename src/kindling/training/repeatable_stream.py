"""Make a loader that is no map-style DataLoader repeatable, and resume it within an epoch.

It continues from its saved `state_dict`, or is read again up to the batch with which training
resumes.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from src.kindling.data.order import seed_generators
from src.kindling.training.loader_parts import datasets_of, stateful_part
from src.kindling.training.repeatable import END, OrderError, Place, Repeated
from src.kindling.training.seeding import CPU

REPORT_SECONDS = 10  # between the lines of a stream that is read again


class RepeatableStream(Repeated):
    """Any other loader: seeded before each batch, and resumed by its state or by reading again."""

    def __init__(self, wrapped: Any, source: Any) -> None:
        super().__init__(wrapped, source, datasets_of(getattr(wrapped, "dataset", wrapped)))
        self._stateful = stateful_part(wrapped)
        self._initial = self._copy_state()
        self._at_end = False  # it continues from the state at an epoch's end
        if self.has_state:  # which may be large
            self._passed = deque(self._passed, maxlen=4)

        # Hugging Face's begin each epoch with the state that was loaded last.
        self._restarts = type(self._stateful).__module__.startswith("datasets.")

    @property
    def has_state(self) -> bool:  # type: ignore[override]
        return self._stateful is not None

    def _copy_state(self) -> Any:
        return copy.deepcopy(self._stateful.state_dict()) if self.has_state else None

    def begin_cycle(self) -> Iterator[Any]:
        if not self.has_state:
            with suppress(ReferenceError):
                self._source.begin_stream()
        elif self._restarts:
            self._stateful.load_state_dict(self._initial)
        return super().begin_cycle()

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        problem, number = "has no state_dict", saved["before"] + saved["count"]
        if self.has_state:
            if self._continue(epoch, saved):
                return
            problem = "does not continue at the same batch from its state_dict"
            self._stateful.load_state_dict(self._initial)
        self._attributes.restore(saved.get("sampler", {}))
        limit = self._source.max_fast_forward
        if limit is not None and number > limit:
            beyond = f"batch {number + 1:,} is beyond max_fast_forward={limit:,}"
            raise OrderError(f"{self.name} {problem}, and {beyond}")
        again = f"reading {number:,} batches again (max_fast_forward limits their number)"
        self._source.announce(f"{self.name} {problem}; {again}")
        super().resume(epoch, saved)

    def _continue(self, epoch: int, saved: dict[str, Any]) -> bool:
        """Continue from the saved state; False if the next batch is known, and another one comes.

        A state may leave out a shuffle buffer.
        """
        self._stateful.load_state_dict(copy.deepcopy(saved["state"]))
        place = Place(saved["cycle"], saved["before"], saved["count"], saved["digest"])
        self._begin(epoch, place, saved["state"])
        batches = self.read(0)
        if saved["next"] is None:
            self._source.announce(
                f"{self.name} continues from its state_dict, which is not checked"
            )
        else:
            batches = itertools.chain([next(batches, None)], batches)
            if self._place.digest != saved["next"]:
                return False
        self._ahead = self._read_ahead(batches)
        return True

    def rewind(self) -> None:
        super().rewind()
        if self.has_state:
            self._stateful.load_state_dict(self._initial)

    def restore(self, saved: dict[str, Any]) -> None:
        if not self.has_state:
            self._attributes.restore(saved.get("sampler", {}))
        elif not self._restarts:
            self._stateful.load_state_dict(saved["state"])
            self._at_end = True

    def _find_changed(self) -> dict[str, Any]:
        return {} if self.has_state else super()._find_changed()

    def read(self, first: int) -> Iterator[Any]:
        self._changed = self._find_changed()
        seed_generators(self._seed_of_order(), CPU)  # its workers' seeds
        batches, reported = self._batches(iter(self._wrapped)), time.monotonic()
        for number in range(first):
            if number and time.monotonic() - reported > REPORT_SECONDS:
                self._source.announce(f"{number:,} of {first:,} batches read")
                reported = time.monotonic()
            next(batches, None)
        return batches

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            seed_generators(self._seed_of_batch(), CPU)
            batch = next(batches, END)
            if batch is END and self._at_end:  # it was restored to the end of an epoch
                self._stateful.load_state_dict(self._initial)
                batches = iter(self._wrapped)
                batch = next(batches, END)
            self._at_end = False
            if batch is END:
                return
            self._add(_excerpt_of(batch), state=self._copy_state())
            yield batch

    def state(self, batch: int) -> dict[str, Any]:
        saved = super().state(batch)
        if not self.has_state:
            return saved
        state = self.passed_until(batch).state if batch else None
        ahead = self.passed_until(batch + 1).place if batch else Place()
        return {
            **saved,
            "state": self._copy_state() if state is None else state,
            "next": ahead.digest if ahead.number == batch + 1 else None,
        }


def _excerpt_of(batch: Any) -> bytes:
    """Some values of each part of a batch, which tell batches apart; reading all takes long."""
    parts = []
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            values = leaf.detach().reshape(-1)
            leaf = values[:: max(1, len(values) // 256)].cpu().tolist()
        elif isinstance(leaf, np.ndarray):
            leaf = leaf.reshape(-1)[:: max(1, leaf.size // 256)].tolist()
        parts.append(repr(leaf) if isinstance(leaf, list | str | bytes | int | float) else "")
    return repr(parts).encode()
