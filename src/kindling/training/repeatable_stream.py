"""Make a loader that is no map-style DataLoader repeatable, and resume it within an epoch.

It continues from its saved `state_dict`, or is read again up to the batch with which training
resumes.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from src.kindling.data.order import seed_generators
from src.kindling.training.loader_parts import datasets_of, stateful_part
from src.kindling.training.position import excerpt_of
from src.kindling.training.repeatable import END, Repeated
from src.kindling.training.seeding import CPU


class RepeatableStream(Repeated):
    """Any other loader: seeded before each batch, and resumed by its state or by reading again."""

    def __init__(self, wrapped: Any, source: Any) -> None:
        super().__init__(wrapped, source, datasets_of(getattr(wrapped, "dataset", wrapped)))
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
                with suppress(ReferenceError):
                    self.source.begin_stream()
            elif self.restarts:
                self.stateful.load_state_dict(self.initial)
        return super().__iter__()

    def resume(self, epoch: int, saved: dict[str, Any]) -> None:
        reason = "has no state_dict"
        if self.has_state:
            if self._continue(epoch, saved):
                return
            reason = "does not continue at the same batch from its state_dict"
            self.stateful.load_state_dict(self.initial)
        self.attributes.restore(saved.get("sampler", {}))
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
        if not self.has_state:
            self.attributes.restore(saved.get("sampler", {}))
        elif not self.restarts:
            self.stateful.load_state_dict(saved["state"])
            self.at_end = True

    def read(self, first: int) -> Iterator[Any]:
        self.changed = {} if self.has_state else self.find_changed()
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
        if not self.has_state:
            return super().state(batch)
        place = self.position.state(batch)
        ahead = self.position.number - batch if batch else 0
        now = self.stateful.state_dict() if ahead <= 0 else self.states[-1 - ahead]
        next_digest = self.position.digest_of(batch) if batch else None
        return {**place, "state": copy.deepcopy(now), "next": next_digest}
