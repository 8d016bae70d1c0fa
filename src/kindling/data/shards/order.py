"""Which rows each batch of an epoch holds: a function of the seed, the epoch and the blocks.

Shards are read in blocks, such as the row groups of a Parquet file. An epoch's blocks are shuffled,
and cut into `lanes` of equally many batches, which are read next to each other: batch `j` comes
from lane `j % lanes`. A lane reads the rows of some batches into memory, a window, and shuffles
them. Nothing depends on the number of workers, which serve different lanes, or on a batch before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from src.kindling.data.order import derive_seed

LANES = 8  # at most, on any machine: the order must not depend on its cores
EVALUATION_ROWS = 2048  # in memory at once without a shuffle, which more rows do not improve
# An epoch, the number of a batch, and the digest of the order that it is in.
Request = tuple[int, int, str]


class Piece(NamedTuple):
    """The rows from `start` to `stop` of a block."""

    block: int
    start: int
    stop: int


class Window(NamedTuple):
    """The rows from `start` to `stop` of an epoch, which are in memory together."""

    lane: int
    number: int  # within the lane
    start: int
    stop: int


class ShardOrder(DistributedSampler[Request]):
    """The batches of every epoch, for one of `world_size` processes; gives requests for them.

    Lightning leaves a DistributedSampler as it is, and calls its `set_epoch` before each epoch; so
    does a loop of one's own.

    Every row is in one batch of one process. In training, each process has equally many rows: fewer
    than `world_size` are left out, other ones in each epoch. A last batch of a single row is then
    merged into the one before it, since batch normalization cannot train on one sample.

    Args:
        rows: of each block.
        batch_size: rows in a batch.
        buffer_size: rows in memory, of all lanes together; at least one batch for each lane.
        seed: shuffles each epoch in its own way; None keeps the blocks' order.
        rank, world_size: this process and their number.
        names: what else the digest depends on, such as the names of the shards.
    """

    def __init__(
        self,
        rows: Sequence[int],
        batch_size: int,
        buffer_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        names: Sequence[str] = (),
    ) -> None:
        self.epoch, self.start = 0, 0  # of the next iteration: its epoch and its first batch
        self.batch_size, self.shuffle_seed, self.rank = batch_size, seed, rank
        training, total = seed is not None, sum(rows)
        self.dropped = total % world_size if training else 0
        shared = total - self.dropped
        first = shared * rank // world_size
        self.rows = shared * (rank + 1) // world_size - first
        full, rest = divmod(self.rows, batch_size)
        self.length = full + (rest > 0 and not (training and rest == 1 and full > 0))
        most = min(LANES, len(rows), self.length)
        self.lanes = 1 << max(0, most.bit_length() - 1)  # a power of two: of any number of workers
        sizes = [sum(map(self.size, self._batches(lane))) for lane in range(self.lanes)]
        self.bounds = list(accumulate(sizes, initial=first))  # of the lanes, in rows
        buffered = buffer_size if training else min(buffer_size, EVALUATION_ROWS)
        self.window_batches = max(1, buffered // (self.lanes * batch_size))
        self.parts = [
            part for block, count in enumerate(rows) for part in self._split(block, count)
        ]
        self.sizes = np.array([part.stop - part.start for part in self.parts])
        settings = ["windows", *names, list(rows), batch_size, buffer_size, seed, world_size]
        self.digest = hashlib.blake2b(repr(settings).encode(), digest_size=8).hexdigest()

    def __iter__(self) -> Iterator[Request]:
        epoch = self.epoch
        return ((epoch, batch, self.digest) for batch in range(self.start, self.length))

    def __len__(self) -> int:
        return self.length

    def _batches(self, lane: int) -> range:
        return range(lane, self.length, self.lanes)

    def _split(self, block: int, count: int) -> list[Piece]:
        """A block in equal parts, each no longer than a window."""
        parts = -(-count // (self.window_batches * self.batch_size))
        bounds = np.linspace(0, count, parts + 1).astype(int).tolist()
        return [Piece(block, *pair) for pair in pairwise(bounds)]

    def size(self, batch: int) -> int:
        """The rows of a batch."""
        last = batch == self.length - 1
        return self.rows - batch * self.batch_size if last else self.batch_size

    def locate(self, batch: int) -> tuple[Window, slice]:
        """The window of a batch, and which of its shuffled rows the batch takes."""
        lane, position = batch % self.lanes, batch // self.lanes
        # The first windows differ in length, so that the lanes are not all read at once.
        skipped = self.window_batches * (self.lanes - 1 - lane) // self.lanes
        number = (position + skipped) // self.window_batches
        first = max(0, number * self.window_batches - skipped)
        last = (number + 1) * self.window_batches - skipped
        start, stop = self.bounds[lane : lane + 2]
        if last < len(self._batches(lane)):
            stop = start + last * self.batch_size
        window = Window(lane, number, start + first * self.batch_size, stop)
        offset = (position - first) * self.batch_size
        return window, slice(offset, offset + self.size(batch))

    def permute(self, epoch: int, window: Window) -> np.ndarray[Any, Any]:
        """The order of a window's rows `(rows,)`."""
        count = window.stop - window.start
        return self._draw_order(count, epoch, self.rank, window.lane, window.number)

    def pieces(self, epoch: int, window: Window) -> Iterator[Piece]:
        """The pieces that make a window, before its rows are shuffled."""
        order = self._draw_order(len(self.parts), epoch)  # all processes share it
        ends = np.cumsum(self.sizes[order])
        start = window.start
        number = int(np.searchsorted(ends, start, side="right"))
        while start < window.stop:
            block, _, last = self.parts[order[number]]
            shift = last - int(ends[number])  # from rows of the epoch to rows of the block
            stop = min(window.stop, int(ends[number]))
            yield Piece(block, start + shift, stop + shift)
            start, number = stop, number + 1

    def _draw_order(self, count: int, *position: int) -> np.ndarray[Any, Any]:
        """An order `(count,)` that is a function of the seed and a position in the training."""
        if self.shuffle_seed is None:
            return np.arange(count)
        seed = derive_seed(self.shuffle_seed, *position)
        return np.random.default_rng(seed).permutation(count)
