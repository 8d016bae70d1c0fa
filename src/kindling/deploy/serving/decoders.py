"""A pool of processes that decode requests; one that takes too long is killed and replaced.

Threads would not do: they cannot be killed, and Pillow and the JSON parser hold the interpreter's
lock for much of their time.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from src.kindling.deploy.serving.decode import Decoded
from src.kindling.deploy.serving.limits import Limits

T = TypeVar("T")
STUCK_AFTER = 1.0  # seconds; when all decoders take longer, the server is not ready
SPAWN = multiprocessing.get_context("spawn")
Decode = Callable[[str, bytes, bool], Decoded]  # of a content type, a body, and whether several
_decode: Decode  # in a decoder process


def _initialize(make_decode: Callable[[], Decode], memory: float) -> None:
    """Prepare a decoder process."""
    global _decode
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_server, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow's, about the clients' files
    _decode = make_decode()
    _limit("RLIMIT_DATA", memory * 1e6)


def _limit(name: str, value: float) -> None:
    """Set a limit of this process, at most the system's; Windows has none."""
    if os.name == "posix":
        import resource

        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (math.ceil(value), most))


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(1)


def _run_decode(content_type: str, body: bytes, several: bool) -> Decoded:
    return _decode(content_type, body, several)


def _run_limited(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function; the system ends this process after so much processor time."""
    _limit("RLIMIT_CPU", time.process_time() + seconds)
    return function(*arguments)


class Decoder:
    """One process; `busy_since` its present request or its start began, None while it is idle."""

    def __init__(self, initialize: Callable[[], None]) -> None:
        self.initialize = initialize
        self.busy_since: float | None = time.monotonic()

    async def start(self) -> None:
        """Start the process, and wait until it takes requests."""
        self.pool = ProcessPoolExecutor(1, SPAWN, self.initialize)
        self.pid = await asyncio.get_running_loop().run_in_executor(self.pool, os.getpid)

    async def kill(self) -> None:
        for process in multiprocessing.active_children():
            if process.pid == self.pid:
                process.kill()
        await asyncio.to_thread(self.pool.shutdown)


class Decoders:
    """A pool of decoders; each process calls `make_decode` first, for what it decodes with."""

    def __init__(self, count: int, make_decode: Callable[[], Decode], limits: Limits) -> None:
        self.limits = limits
        initialize = partial(_initialize, make_decode, limits.memory)
        self.decoders = [Decoder(initialize) for _ in range(count)]
        self.idle: asyncio.Queue[Decoder] = asyncio.Queue()
        self.num_waiting = self.num_replaced = 0

    async def start(self) -> None:
        # Each process needs one thread, also on a machine with many cores.
        os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        await asyncio.gather(*[decoder.start() for decoder in self.decoders])
        for decoder in self.decoders:
            self._release(decoder)

    async def close(self) -> None:
        await asyncio.gather(*[decoder.kill() for decoder in self.decoders])

    def all_stuck(self) -> bool:
        """Return whether each has worked on one request, or on its start, for long."""
        until = time.monotonic() - STUCK_AFTER
        return all(d.busy_since is not None and d.busy_since < until for d in self.decoders)

    async def decode(self, content_type: str, body: bytes, several: bool) -> Decoded:
        """Decode the body of one request."""
        return await self.run(_run_decode, content_type, body, several)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a decoder; raise HTTPException if it refuses, or takes too long."""
        if self.num_waiting >= self.limits.queue:
            reason = f"{self.num_waiting:,} requests already wait for a decoder"
            raise HTTPException(429, f"{reason}; try again later")
        self.num_waiting += 1
        try:
            async with asyncio.timeout(self.limits.wait):
                decoder = await self.idle.get()
        except TimeoutError:
            reason = f"no decoder was free within {self.limits.wait:g} s; try again later"
            raise HTTPException(503, reason) from None
        finally:
            self.num_waiting -= 1
        decoder.busy_since = time.monotonic()
        loop = asyncio.get_running_loop()
        call = partial(_run_limited, self.limits.decode, function, *arguments)
        try:
            try:
                result = loop.run_in_executor(decoder.pool, call)
            except RuntimeError:  # its process ended after the last request
                log("ended; starting another")
                self.num_replaced += 1
                await decoder.start()
                result = loop.run_in_executor(decoder.pool, call)
            async with asyncio.timeout(self.limits.decode):
                return await result
        except TimeoutError:
            await decoder.kill()
            reason = f"decoding took more than {self.limits.decode:g} s"
            log(f"killed: {reason}")
            raise HTTPException(422, f"{reason}; send less, or simpler files") from None
        except MemoryError:
            reason = f"decoding takes more than {self.limits.memory:,.0f} MB of memory"
            raise HTTPException(413, f"{reason}; send less, or smaller files") from None
        except BrokenProcessPool:
            raise HTTPException(422, "cannot be decoded: the decoder's process ended") from None
        finally:
            self._release(decoder)

    def _release(self, decoder: Decoder) -> None:
        decoder.busy_since = None
        self.idle.put_nowait(decoder)


def log(line: str) -> None:
    with suppress(OSError):  # the process that reads standard error may have been killed
        print(f"decoder    {line}", file=sys.stderr, flush=True)
