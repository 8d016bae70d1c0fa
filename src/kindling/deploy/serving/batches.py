"""Gather waiting requests into batches: while a thread computes one, the next one fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from src.kindling.deploy.serving.decode import Array
from src.kindling.deploy.serving.limits import Limits


class Batches:
    """A queue of requests in front of the model.

    Args:
        predict: computes a batch.
        limits: inputs in a batch (a larger request becomes one batch), and in the queue.
    """

    def __init__(self, predict: Callable[[Array], Array], limits: Limits) -> None:
        self.predict, self.limits = predict, limits
        self.queue: deque[tuple[Array, asyncio.Future[Array]]] = deque()
        self.num_waiting = 0  # inputs
        self.filled = asyncio.Event()

    async def compute(self, x: Array) -> Array:
        """The model's outputs for the inputs `(n, *shape)` of one request.

        Raises:
            HTTPException: when the queue is full, or the request's turn does not come in time.
        """
        if self.num_waiting and self.num_waiting + len(x) > self.limits.queue:
            reason = f"{self.num_waiting:,} inputs already wait; try again later"
            raise HTTPException(429, reason)
        outputs: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        self.queue.append((x, outputs))
        self.num_waiting += len(x)
        self.filled.set()
        try:
            async with asyncio.timeout(self.limits.wait):
                return await outputs
        except TimeoutError:
            reason = f"not computed within {self.limits.wait:g} s; try again later"
            raise HTTPException(503, reason) from None

    async def run(self) -> None:
        """Compute batches until cancelled."""
        while True:
            await self.filled.wait()
            inputs, futures = self._take()
            if not inputs:
                continue
            ends = np.cumsum([len(x) for x in inputs])[:-1]
            try:
                outputs = await asyncio.to_thread(self.predict, np.concatenate(inputs))
                results: list[Any] = np.split(outputs, ends)
            except Exception as error:  # these requests fail, the server continues
                results = [error] * len(futures)
            for future, result in zip(futures, results, strict=True):
                if future.done():  # it no longer waits
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> tuple[list[Array], list[asyncio.Future[Array]]]:
        """The next batch, without requests that no longer wait."""
        inputs: list[Array] = []
        futures: list[asyncio.Future[Array]] = []
        size = 0
        while self.queue and (not size or size + len(self.queue[0][0]) <= self.limits.batch):
            x, future = self.queue.popleft()
            self.num_waiting -= len(x)
            if not future.done():
                inputs.append(x)
                futures.append(future)
                size += len(x)
        if not self.queue:
            self.filled.clear()
        return inputs, futures
