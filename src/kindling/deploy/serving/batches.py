"""Gather waiting requests into batches: while a thread computes one, the next one fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from src.kindling.deploy.serving.decode import Array, Refusal
from src.kindling.deploy.serving.limits import Limits


class Entry(NamedTuple):
    """The inputs `(n, *shape)` of one request, and the future of its outputs."""

    x: Array
    outputs: asyncio.Future[Array]


class Batches:
    """A queue of requests in front of the model.

    Args:
        predict: computes a batch.
        limits: inputs in a batch (a larger request becomes one batch), and in the queue.
    """

    def __init__(self, predict: Callable[[Array], Array], limits: Limits) -> None:
        self.predict, self.limits = predict, limits
        self.queue: deque[Entry] = deque()
        self.num_waiting = 0  # inputs
        self.filled = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def compute(self, x: Array) -> Array:
        """The model's outputs for the inputs of one request.

        Raises:
            Refusal: when the queue is full, or the request's turn does not come in time.
        """
        if self.num_waiting and self.num_waiting + len(x) > self.limits.queue:
            raise Refusal(429, f"{self.num_waiting:,} inputs already wait; try again later")
        entry = Entry(x, asyncio.get_running_loop().create_future())
        self.queue.append(entry)
        self.num_waiting += len(x)
        self.filled.set()
        try:
            async with asyncio.timeout(self.limits.wait):
                return await entry.outputs
        except TimeoutError:
            reason = f"not computed within {self.limits.wait:g} s; try again later"
            raise Refusal(503, reason) from None

    async def run(self) -> None:
        """Compute batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.filled.wait()
            batch = self._take()
            if not batch:
                continue
            x = np.concatenate([entry.x for entry in batch])
            try:
                outputs = await loop.run_in_executor(self.thread, self.predict, x)
            except Exception as error:  # these requests fail, the server continues
                for entry in batch:
                    if not entry.outputs.done():
                        entry.outputs.set_exception(error)
                continue
            start = 0
            for entry in batch:
                if not entry.outputs.done():
                    entry.outputs.set_result(outputs[start : start + len(entry.x)])
                start += len(entry.x)

    def _take(self) -> list[Entry]:
        """The next batch, without requests that no longer wait."""
        batch: list[Entry] = []
        size = 0
        while self.queue and (not batch or size + len(self.queue[0].x) <= self.limits.batch):
            entry = self.queue.popleft()
            self.num_waiting -= len(entry.x)
            if not entry.outputs.done():
                batch.append(entry)
                size += len(entry.x)
        if not self.queue:
            self.filled.clear()
        return batch
