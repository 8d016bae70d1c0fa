"""The batches of shards: a loader that any loop or Trainer reads, and resumes within an epoch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import Dataset

from src.kindling.config.errors import InputError, format_count
from src.kindling.data.loader import Loader, make_loader
from src.kindling.data.order import derive_seed, seed_generators
from src.kindling.data.shards.files import Rows, ShardFiles, join_rows, take_rows
from src.kindling.data.shards.order import Request, ShardOrder, Window

M_MMAP_THRESHOLD = -3  # of malloc.h


class ShardBatches(Dataset[Any]):
    """Reads the batch of a request, an epoch and a number; any may be asked for, in any order.

    One window of each lane stays in memory until its last row has been handed out: in the usual
    order each is read once. At most `buffer_size` rows are there at once, undecoded.

    Args:
        shards: where the rows are.
        order: which rows are in which batch.
        columns: those that are read.
        decode: makes a batch of rows; in training with generators seeded for this batch.
    """

    def __init__(
        self,
        shards: ShardFiles,
        order: ShardOrder,
        columns: Sequence[str],
        decode: Callable[[Rows], Any],
    ) -> None:
        self.shards, self.order, self.columns, self.decode = shards, order, columns, decode
        # The window of each lane, in this epoch, and its rows.
        self.buffer: dict[int, tuple[int, Window, Rows]] = {}

    def __len__(self) -> int:
        return self.order.length

    def __getitem__(self, request: Request) -> Any:
        epoch, batch, _ = request
        window, rows_of_batch = self.order.locate(batch)
        rows = self._read_window(epoch, window)
        chosen = take_rows(rows, self.order.permute(epoch, window)[rows_of_batch])
        if rows_of_batch.stop == window.stop - window.start:
            del self.buffer[window.lane], rows
        if self.order.shuffle_seed is None:
            return self.decode(chosen)
        with isolate_rng(include_cuda=False):
            seed = derive_seed(self.order.shuffle_seed, epoch, batch, self.order.rank)
            seed_generators(seed, torch.device("cpu"))
            return self.decode(chosen)

    def _read_window(self, epoch: int, window: Window) -> Rows:
        if self.buffer.get(window.lane, ())[:2] != (epoch, window):
            self.buffer.pop(window.lane, None)  # before the next one is read
            parts = [
                self.shards.read(self.shards.blocks[block], start, stop, self.columns)
                for block, start, stop in self.order.pieces(epoch, window)
            ]
            self.buffer[window.lane] = epoch, window, join_rows(parts)
            release_memory()
        return self.buffer[window.lane][2]


class ShardLoader(Loader):
    """A DataLoader that counts the batches it has yielded, and continues after any of them."""

    sampler: ShardOrder
    resumed: tuple[int, int] | None = None  # the epoch and the batch with which to continue
    yielded = (-1, 0)  # the epoch, and the number of its batches that were yielded

    def __iter__(self) -> Any:
        # A generator: Lightning makes an iterator before it sets the epoch, and then reads it.
        sampler, (epoch, first) = self.sampler, self.resumed or (-1, 0)
        sampler.start = first if epoch == sampler.epoch else 0
        self.resumed, epoch = None, sampler.epoch
        self.yielded = epoch, sampler.start
        for number, batch in enumerate(super().__iter__(), sampler.start + 1):
            self.yielded = epoch, number
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last yielded batch, in plain values."""
        epoch, batch = self.resumed or self.yielded
        batch = batch if epoch == self.sampler.epoch else 0
        return {"epoch": self.sampler.epoch, "batch": batch, "order": self.sampler.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch of a `state_dict` in its epoch, without reading those before it.

        Raises:
            InputError: when shards or settings have changed, so that the order is another.
        """
        if state["order"] != self.sampler.digest:
            changed = "shards, seed, batch size, buffer size or number of processes have changed"
            remedy = "restore them, or train from the start"
            raise InputError(f"data: {changed} since the checkpoint was saved; {remedy}")
        self.sampler.set_epoch(state["epoch"])
        self.resumed = state["epoch"], state["batch"]


def release_memory() -> None:
    """Give freed memory back to the system, which glibc keeps.

    Its heap also grows with each aligned tensor of some megabytes (seen in glibc 2.36), so that
    these are mapped one by one from now on.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 4 * 2**20)
        libc.malloc_trim(0)


def make_shard_loader(
    shards: ShardFiles,
    columns: Sequence[str],
    decode: Callable[[Rows], Any],
    batch_size: int,
    buffer_size: int,
    workers: int = 0,
    seed: int | None = None,
    trainer: Trainer | None = None,
) -> ShardLoader:
    """Make the loader of one process; `trainer` gives its rank and the number of processes.

    It uses the most workers, at most those asked for, among which the lanes can be divided: each
    then reads different lanes. The batches are the same for any number. See `ShardOrder` and
    `ShardBatches` for the other arguments.
    """
    rows, names = [block.rows for block in shards.blocks], [path.name for path in shards.paths]
    share = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    order = ShardOrder(rows, batch_size, buffer_size, seed, *share, names)
    fitting = max(n for n in range(workers + 1) if n == 0 or order.lanes % n == 0)
    dataset = ShardBatches(shards, order, columns, decode)
    pin_memory = trainer is not None and trainer.strategy.root_device.type == "cuda"
    options: Any = {"pin_memory": pin_memory, "persistent": False, "loader": ShardLoader}
    loader = make_loader(dataset, order, fitting, **options)
    assert isinstance(loader, ShardLoader)
    release_memory()  # what finding classes and statistics took
    if share[0] == 0 and fitting < workers:
        divided = f"so that they divide the {order.lanes} lanes in which shards are read"
        print(f"data: {format_count(fitting, 'worker')} instead of {workers}, {divided}")
    if share[0] == 0 and order.dropped:
        reason = f"so that {share[1]} processes train on equally many"
        print(f"data: {order.dropped} of {sum(rows):,} rows left out in each epoch, {reason}")
    return loader
