"""Processes that decode what clients send; one that takes too long is killed and replaced.

src/serving/inputs.py uses them. Threads would not do: they cannot be killed, and Pillow and the JSON
parser hold the interpreter's lock for much of their time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from src.kindling.deploy.serving.decode import Decoded, Refusal
from src.kindling.deploy.serving.decoder_process import Facts, pack
from src.kindling.deploy.serving.limits import Limits

ROOT = Path(__file__).parents[4]
COMMAND = (sys.executable, "-m", "src.kindling.deploy.serving.decoder_process")
START = 60  # seconds that a decoder may take to start
DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before each attempt to start a decoder
STUCK = 1.0  # seconds; when all decoders take longer at a request, the server is not ready
BUFFER = 1 << 26  # bytes of a reply that are read ahead


class Decoder:
    """One process.

    Attributes:
        since: when its present request, or its start, began; None while it is idle.
    """

    def __init__(self) -> None:
        self.process: Process | None = None
        self.since: float | None = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self, first: bytes) -> None:
        """Start it, and wait until it takes requests.

        Raises:
            OSError: when it does not come so far.
        """
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=PIPE,
            stdout=PIPE,
            limit=BUFFER,
            cwd=ROOT,
            env={**os.environ, **one_thread},
            start_new_session=True,  # Ctrl-C is for the server
        )
        try:
            async with asyncio.timeout(START):
                await self.exchange(first)
        except (OSError, EOFError, ValueError, TimeoutError):
            await self.kill()
            raise OSError(f"a decoder ended by {self.end()} before it was ready") from None

    async def exchange(self, message: bytes) -> tuple[Facts, bytes]:
        """Send a message and read the reply.

        Raises:
            OSError, EOFError, ValueError: when the process ends instead.
        """
        assert self.process is not None
        requests, replies = self.process.stdin, self.process.stdout
        assert requests is not None
        assert replies is not None
        requests.write(message)
        await requests.drain()
        facts: Facts = json.loads(await replies.readline())
        return facts, await replies.readexactly(facts["bytes"])

    async def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def end(self) -> str:
        """How it ended."""
        status = self.process.returncode if self.process is not None else None
        return f"signal {-status}" if status is not None and status < 0 else f"status {status}"


class Decoders:
    """A pool of decoders.

    Args:
        count: processes, each of which decodes one request at a time.
        limits: how long one request may take, and how long and how many may wait.
    """

    def __init__(self, count: int, limits: Limits) -> None:
        self.limits, self.first = limits, b""
        self.all = [Decoder() for _ in range(count)]
        self.idle: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()  # the last one's memory is still warm
        self.waiting = self.replaced = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self, facts: Facts) -> None:
        """Start all of them.

        Args:
            facts: of the model.

        Raises:
            OSError: when one does not start.
        """
        self.first = pack({"facts": facts, "limits": vars(self.limits)})
        await asyncio.gather(*[one.start(self.first) for one in self.all])
        for one in self.all:
            self._release(one)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*[one.kill() for one in self.all])

    def stuck(self) -> bool:
        """Whether each has been at one request, or at its start, for longer than most requests take."""
        until = time.monotonic() - STUCK
        return all(one.since is not None and one.since < until for one in self.all)

    async def __call__(self, job: dict[str, Any], *contents: bytes) -> Decoded:
        """Decode one request.

        Args:
            job: `several`, and for pictures `files`: the name and the length of each.
            contents: the bytes of the body or of the files.

        Raises:
            Refusal: by a decoder, or because none is free in time, or because it took too long.
        """
        one = await self._take()
        try:
            async with asyncio.timeout(self.limits.decode):
                facts, content = await one.exchange(pack(job, *contents))
        except TimeoutError:
            self._replace(one, f"killed: one request took more than {self.limits.decode:g} s")
            raise Refusal(
                422, f"decoding took more than {self.limits.decode:g} s; send less, or simpler files"
            ) from None
        except (OSError, EOFError, ValueError):
            await one.kill()
            self._replace(one, f"ended by {one.end()} at one request")
            raise Refusal(422, f"cannot be decoded: the decoder ended by {one.end()}") from None
        except BaseException:  # it may still reply, and to the next request
            self._replace(one, "killed: its request was cancelled")
            raise
        self._release(one)
        if "status" in facts:
            raise Refusal(facts["status"], facts["reason"])
        x = np.frombuffer(content, np.dtype(facts["type"])).reshape(facts["shape"])
        return Decoded(x, facts["several"], facts["notes"], [(w, h) for w, h in facts["sizes"]])

    async def _take(self) -> Decoder:
        """An idle one, now or when its turn comes."""
        while True:
            one = await self._next()
            if one.alive:
                one.since = time.monotonic()
                return one
            self._replace(one, f"ended by {one.end()} while it was idle")

    async def _next(self) -> Decoder:
        if not self.idle.empty():
            return self.idle.get_nowait()
        if self.waiting >= self.limits.queue:
            raise Refusal(429, f"{self.waiting:,} wait for a decoder already; try again later")
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.wait):
                return await self.idle.get()
        except TimeoutError:
            raise Refusal(503, f"no decoder was free within {self.limits.wait:g} s; try again later") from None
        finally:
            self.waiting -= 1

    def _release(self, one: Decoder) -> None:
        one.since = None
        self.idle.put_nowait(one)

    def _replace(self, one: Decoder, reason: str) -> None:
        _tell(f"{reason}; another takes its place")
        self.replaced += 1
        one.since = one.since or time.monotonic()
        task = asyncio.create_task(self._restart(one))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _restart(self, one: Decoder) -> None:
        await one.kill()
        failures = 0
        while True:
            await asyncio.sleep(DELAYS[min(failures, len(DELAYS) - 1)])
            try:
                await one.start(self.first)
            except OSError as error:
                failures += 1
                _tell(f"{error}; failed {failures} times in a row")
            else:
                return self._release(one)


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody listens, where the process that started the server was killed
        print(f"decoder    {line}", file=sys.stderr, flush=True)
