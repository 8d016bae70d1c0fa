"""Where a loader is in an epoch, and a rolling hash of what it has given in it."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from src.kindling.data.order import derive_seed

# More than the loaders' workers read ahead.
REMEMBERED = 1024


@dataclass
class Position:
    """Where a loader is in an epoch.

    Attributes:
        epoch: the one that is read; -1 before the first.
        cycle: how often it was read in this epoch from the start: a shorter one of several loaders.
        digest: a rolling hash of the cycle's index lists (of a stream: of its batches).
        recent: number, digest and index list of the newest batches.
    """

    seed: int
    epoch: int = -1
    cycle: int = 0
    digest: str = ""
    recent: deque[tuple[int, str, Any]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def seed_of_order(self) -> int:
        cycle = (-self.cycle,) if self.cycle else ()
        return derive_seed(self.seed, self.epoch, *cycle)

    def seed_of_batch(self, number: int) -> int:
        return derive_seed(self.seed, self.epoch, number)

    def begin(self, epoch: int, cycle: int) -> None:
        """Begin to read the loader from its start."""
        if epoch != self.epoch:
            self.recent.clear()
        self.epoch, self.cycle, self.digest = epoch, cycle, ""

    def add(self, number: int, content: bytes, indices: Any = None) -> None:
        """Note the next batch of the epoch."""
        self.digest = hashlib.blake2b(self.digest.encode() + content, digest_size=16).hexdigest()
        self.recent.append((number, self.digest, indices))

    def sample_numbers(self, batch: int) -> list[int]:
        """The index list of a recent batch; empty if it is not a list of numbers."""
        found: Any = next((indices for number, _, indices in self.recent if number == batch), None)
        if isinstance(found, list) and all(isinstance(index, int) for index in found):
            return found
        return []

    def digest_before(self, batch: int) -> str:
        """The digest when so many batches of the epoch were trained on."""
        return next((digest for number, digest, _ in reversed(self.recent) if number < batch), "")


def length_of(batches: Any) -> int | None:
    """The number of batches; None of a stream, or of a sampler that does not know."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


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
