"""Which rows each batch of an epoch holds: a function of the seed, the epoch and the blocks.

Shards are read in blocks, such as the row groups of a Parquet file. An epoch's blocks are shuffled,
and cut into `lanes` of equally many batches, which are read next to each other: batch `j` comes
from lane `j % lanes`. A lane reads a window of consecutive blocks into memory and shuffles its
rows. Nothing depends on the number of workers, which serve different lanes, or on a batch before.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from src.kindling.data.order import derive_seed

LANES = 8  # at most, on any machine: the order must not depend on its cores
# An epoch, the number of a batch, and the digest of the order that it is in.
Request = tuple[int, int, str]


class Piece(NamedTuple):
    """The rows from `start` to `stop` of a block."""

    block: int
    start: int
    stop: int


class Window(NamedTuple):
    """Pieces that are in memory together."""

    start: int  # the place of the first of their rows in the lane
    rows: int
    pieces: tuple[Piece, ...]


class ShardOrder:
    """The batches of every epoch, for one of `world_size` processes.

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
        self.batch_size, self.seed, self.rank = batch_size, seed, rank
        training, total = seed is not None, sum(rows)
        self.dropped = total % world_size if training else 0
        shared = total - self.dropped
        self.first = shared * rank // world_size
        self.rows = shared * (rank + 1) // world_size - self.first
        full, rest = divmod(self.rows, batch_size)
        self.length = full + (rest > 0 and not (training and rest == 1 and full > 0))
        most = min(LANES, len(rows), self.length)
        self.lanes = 1 << max(0, most.bit_length() - 1)  # a power of two: of any number of workers
        sizes = [
            sum(map(self.size, range(lane, self.length, self.lanes))) for lane in range(self.lanes)
        ]
        self.bounds = list(accumulate(sizes, initial=self.first))  # of the lanes, in rows
        self.share = max(buffer_size // self.lanes, batch_size)
        self.parts = [
            part for block, count in enumerate(rows) for part in self._split(block, count)
        ]
        self.sizes = np.array([part.stop - part.start for part in self.parts])
        settings = [*names, list(rows), batch_size, buffer_size, seed, world_size]
        self.digest = hashlib.blake2b(repr(settings).encode(), digest_size=8).hexdigest()
        self.epoch, self.cached = -1, dict[int, tuple[Window, ...]]()

    def _split(self, block: int, count: int) -> list[Piece]:
        """A block in equal parts that fit into a lane's share of the buffer."""
        bounds = np.linspace(0, count, -(-count // self.share) + 1).astype(int).tolist()
        return [Piece(block, *pair) for pair in pairwise(bounds)]

    def size(self, batch: int) -> int:
        """The rows of a batch."""
        last = batch == self.length - 1
        return self.rows - batch * self.batch_size if last else self.batch_size

    def locate(self, epoch: int, batch: int) -> list[tuple[int, int, int]]:
        """The rows of a batch, as windows of lane `batch % lanes`: `(window, start, stop)`.

        They are the rows from `start` to `stop` of the window's shuffled ones.
        """
        windows = self.windows(epoch, batch % self.lanes)
        start = batch // self.lanes * self.batch_size
        stop, found = start + self.size(batch), []
        number = bisect_right(windows, start, key=lambda window: window.start) - 1
        while start < stop:
            window = windows[number]
            last = min(stop, window.start + window.rows)
            found.append((number, start - window.start, last - window.start))
            start, number = last, number + 1
        return found

    def shuffle(self, epoch: int, lane: int, number: int) -> np.ndarray[Any, Any]:
        """The order of a window's rows `(rows,)`."""
        rows = self.windows(epoch, lane)[number].rows
        if self.seed is None:
            return np.arange(rows)
        seed = derive_seed(self.seed, epoch, self.rank, lane, number)
        return np.random.default_rng(seed).permutation(rows)

    def windows(self, epoch: int, lane: int) -> tuple[Window, ...]:
        """The windows of a lane, in order."""
        if epoch != self.epoch:
            self.epoch, self.cached = epoch, {}
        if lane not in self.cached:
            self.cached[lane] = tuple(self._windows(epoch, lane))
        return self.cached[lane]

    def _windows(self, epoch: int, lane: int) -> Iterator[Window]:
        """In training, a window fills the lane's share of the buffer; otherwise it is one piece.

        The first ones of a training differ in size, so that the lanes do not all read at once.
        """
        pieces: list[Piece] = []
        place, count, most = 0, 0, self.share * (lane + 1) // self.lanes
        for piece in self._cut(epoch, lane):
            rows = piece.stop - piece.start
            if pieces and (count + rows > most or self.seed is None):
                yield Window(place, count, tuple(pieces))
                place, count, pieces, most = place + count, 0, [], self.share
            pieces.append(piece)
            count += rows
        yield Window(place, count, tuple(pieces))

    def _cut(self, epoch: int, lane: int) -> Iterator[Piece]:
        """The pieces of a lane, out of this process's share of the epoch's rows."""
        start, stop = self.bounds[lane : lane + 2]
        order = self._permute(epoch)
        ends = np.cumsum(self.sizes[order])
        number = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block, _, last = self.parts[order[number]]
            place, end = last - int(ends[number]), min(stop, int(ends[number]))
            yield Piece(block, place + start, place + end)
            start, number = end, number + 1

    def _permute(self, epoch: int) -> np.ndarray[Any, Any]:
        """The order of the parts, which all processes share."""
        if self.seed is None:
            return np.arange(len(self.parts))
        return np.random.default_rng(derive_seed(self.seed, epoch)).permutation(len(self.parts))


class ShardSampler(DistributedSampler[Request]):
    """The requests for an epoch's batches.

    Lightning leaves a DistributedSampler as it is, and calls its `set_epoch` before each epoch; so
    does a loop of one's own.
    """

    def __init__(self, order: ShardOrder) -> None:
        self.order, self.epoch = order, 0
        self.start = 0  # the first batch of the next iteration

    def __iter__(self) -> Iterator[Request]:
        epoch = self.epoch
        return ((epoch, batch, self.order.digest) for batch in range(self.start, len(self)))

    def __len__(self) -> int:
        return self.order.length
