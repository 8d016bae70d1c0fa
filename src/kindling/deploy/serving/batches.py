"""Gather waiting requests into batches: while a thread computes one, the next one fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from starlette.exceptions import HTTPException

from src.kindling.deploy.serving.decode import Array
from src.kindling.deploy.serving.limits import Limits


@dataclass
class Entry:
    """The inputs `(n, *shape)` of one request, and their outputs."""

    x: Array
    outputs: asyncio.Future[Array] = field(default_factory=asyncio.Future)


class Batches:
    """A queue of requests in front of `predict`; a request above `limits.batch` is a batch."""

    def __init__(self, predict: Callable[[Array], Array], limits: Limits) -> None:
        self.predict, self.limits = predict, limits
        self.queue: deque[Entry] = deque()
        self.computing: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Inputs in the queue."""
        return sum(len(entry.x) for entry in self.queue)

    async def compute(self, x: Array) -> Array:
        """Compute the outputs for one request; raise HTTPException if it would wait too long."""
        waiting = self.num_waiting
        if waiting and waiting + len(x) > self.limits.queue:
            raise HTTPException(429, f"{waiting:,} inputs already wait; try again later")
        entry = Entry(x)
        self.queue.append(entry)
        if self.computing is None or self.computing.done():
            self.computing = asyncio.create_task(self._compute_all())
        try:
            async with asyncio.timeout(self.limits.wait):
                return await entry.outputs
        except TimeoutError:
            reason = f"not computed within {self.limits.wait:g} s; try again later"
            raise HTTPException(503, reason) from None

    async def _compute_all(self) -> None:
        """Compute batches until the queue is empty."""
        while batch := self._take():
            try:
                x = np.concatenate([entry.x for entry in batch])
                outputs = await asyncio.to_thread(self.predict, x)
            except Exception as error:  # these requests fail, the server continues
                for entry in batch:
                    if not entry.outputs.done():
                        entry.outputs.set_exception(error)
                continue
            for entry in batch:
                if not entry.outputs.done():
                    entry.outputs.set_result(outputs[: len(entry.x)])
                outputs = outputs[len(entry.x) :]

    def _take(self) -> list[Entry]:
        """The next batch, without requests that no longer wait; empty if none does."""
        batch: list[Entry] = []
        size = 0
        while self.queue and (not batch or size + len(self.queue[0].x) <= self.limits.batch):
            entry = self.queue.popleft()
            if not entry.outputs.done():
                batch.append(entry)
                size += len(entry.x)
        return batch
