"""torch's DataLoader, whose workers end in order however it is left."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class Loader(DataLoader[Any]):
    """A DataLoader that ends its workers before the garbage collector takes it apart.

    A loader that was left in mid-epoch by an error is part of a cycle, through the error's traceback. The garbage
    collector may close the pipes to its workers before torch says goodbye to them (torch 2.11 to 2.15). A worker that
    had no batch yet is then waited for, ten seconds, and what it is sent is written into whatever has the closed pipe's
    number by now.
    """

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return self._kept(batches) if self.num_workers else batches

    def _kept(self, batches: Any) -> Iterator[Any]:
        """The batches, with the loader kept as long as somebody asks for more."""
        yield from batches

    def _get_iterator(self) -> Any:
        batches = super()._get_iterator()
        if self.num_workers:
            # Called before anything that belongs to the loader is taken apart; until then it keeps the pipes whole.
            weakref.finalize(self, _end, batches, os.getpid()).atexit = False
        return batches


def as_it_is(batch: Any) -> Any:
    """The collate function of batches that are whole already."""
    return batch


def _end(batches: Any, process: int) -> None:
    if os.getpid() == process:
        batches._shutdown_workers()
    else:  # a worker that was forked since collects its copy; it must not say goodbye to processes that are not its own
        batches._shutdown = True
