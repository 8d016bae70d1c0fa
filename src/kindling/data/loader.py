"""torch's DataLoader with an orderly end of its workers."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from src.kindling.runs.signals import in_worker


class Loader(DataLoader[Any]):
    """A DataLoader that ends its workers before the garbage collector takes it apart.

    A loader that an error left in mid-epoch is part of a cycle, through the error's traceback. The
    garbage collector may close the pipes to its workers before torch shuts them down (torch 2.11 to
    2.15). torch then waits ten seconds for a worker that had no batch yet, and writes its message
    into whatever has the closed pipe's number by now.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return self._iterate(batches) if self.num_workers else batches

    def _iterate(self, batches: Any) -> Iterator[Any]:
        """Yield the batches, and keep the loader alive meanwhile."""
        yield from batches

    def _get_iterator(self) -> Any:
        batches = super()._get_iterator()
        if self.num_workers:
            # Called before any part of the loader is collected; until then it keeps the pipes open.
            weakref.finalize(self, _end, batches, os.getpid()).atexit = False
        return batches


def make_loader(
    dataset: Dataset[Any],
    order: Any,
    workers: int,
    timeout: float = 0,
    pin_memory: bool = False,
    persistent: bool = True,
    loader: type[Loader] = Loader,
) -> Loader:
    """Make the loader of a data set that reads whole batches, in an order of sample indices.

    `persistent` workers wait for the next epoch with what they hold in memory.
    """
    return loader(
        dataset,
        sampler=order,
        batch_size=None,  # the sampler gives whole batches
        collate_fn=as_it_is,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=in_worker,
        timeout=timeout if workers else 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the workers' seed must not advance the global generator
    )


def as_it_is(batch: Any) -> Any:
    """Return a batch unchanged: the collate function of whole batches."""
    return batch


def _end(batches: Any, process: int) -> None:
    if os.getpid() == process:
        batches._shutdown_workers()
    else:  # a worker forked since then collects its copy; it must not shut down others' processes
        batches._shutdown = True
