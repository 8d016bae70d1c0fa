"""The position of a loader in an epoch, and a rolling hash of the batches it has yielded."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from src.kindling.data.order import derive_seed

# More than the loaders' workers read ahead.
REMEMBERED = 1024


class Yielded(NamedTuple):
    """A batch that a loader has yielded.

    Attributes:
        number: its number in the epoch.
        place: the state for resuming after it. `cycle`: how often the loader was exhausted before
            in this epoch, as a shorter one of several; `before`: the number of batches of those
            cycles; `count`: of this cycle; `digest`: a rolling hash of this cycle's index lists
            (of a stream: of its batches).
        indices: its index list; None for a stream.
    """

    number: int
    place: dict[str, Any]
    indices: Any


@dataclass
class Position:
    """The next batch of a loader in an epoch, and the newest ones that it has yielded."""

    seed: int
    epoch: int = -1  # -1 before the first
    cycle: int = 0
    before: int = 0
    number: int = 0
    digest: str = ""
    newest: deque[Yielded] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def begin(self, epoch: int, cycle: int, before: int) -> None:
        """Begin to read the loader from its start."""
        if epoch != self.epoch:
            self.newest.clear()
        self.epoch, self.cycle, self.digest = epoch, cycle, ""
        self.before = self.number = before

    def seed_of_order(self) -> int:
        cycle = (-self.cycle,) if self.cycle else ()
        return derive_seed(self.seed, self.epoch, *cycle)

    def seed_of_batch(self) -> int:
        return derive_seed(self.seed, self.epoch, self.number)

    def add(self, content: bytes, indices: Any = None) -> None:
        """Record that the loader yields the next batch."""
        self.digest = hashlib.blake2b(self.digest.encode() + content, digest_size=16).hexdigest()
        number, self.number = self.number, self.number + 1
        place = {"cycle": self.cycle, "before": self.before, "digest": self.digest}
        self.newest.append(Yielded(number, {**place, "count": self.number - self.before}, indices))

    def state(self, batch: int) -> dict[str, Any]:
        """The state for resuming after `batch` batches of the epoch."""
        places = (one.place for one in reversed(self.newest) if one.number < batch)
        return next(places, {"cycle": 0, "before": 0, "count": 0, "digest": ""})

    def digest_of(self, batch: int) -> str | None:
        """The digest up to a batch that was read ahead; None if it was not."""
        return next((one.place["digest"] for one in self.newest if one.number == batch), None)

    def sample_numbers(self, batch: int) -> list[int]:
        """The index list of a recent batch; empty if it is not a list of numbers."""
        found: Any = next((one.indices for one in self.newest if one.number == batch), None)
        if isinstance(found, list) and all(isinstance(index, int) for index in found):
            return found
        return []


def bytes_of(indices: Any) -> bytes:
    """An index list as bytes that are equal in each process."""
    try:
        array = np.asarray(indices)
    except ValueError:  # lists of different lengths
        return repr(indices).encode()
    return repr(indices).encode() if array.dtype.hasobject else array.tobytes()


def excerpt_of(batch: Any) -> bytes:
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
