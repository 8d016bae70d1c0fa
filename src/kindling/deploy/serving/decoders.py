"""A pool of processes that decode requests; one that takes too long is killed and replaced.

Threads would not do: they cannot be killed, and Pillow and the JSON parser hold the interpreter's
lock for much of their time.
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

import numpy as np

from src.kindling.deploy.serving.decode import Decoded, Refusal
from src.kindling.deploy.serving.decoder_process import Header, pack
from src.kindling.deploy.serving.limits import Limits

ROOT = Path(__file__).parents[4]
COMMAND = (sys.executable, "-m", "src.kindling.deploy.serving.decoder_process")
START_TIMEOUT = 60  # seconds
STUCK_AFTER = 1.0  # seconds; when all decoders take longer, the server is not ready
BUFFER = 1 << 26  # bytes of a reply that are read ahead


class Decoder:
    """One process.

    Args:
        setup: the first message that it receives.

    Attributes:
        busy_since: when its present request, or its start, began; None while it is idle.
    """

    def __init__(self, setup: bytes) -> None:
        self.setup = setup
        self.process: Process | None = None
        self.busy_since: float | None = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the process, and wait until it takes requests.

        Raises:
            ConnectionError: when it does not start, or ends instead.
        """
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            self.process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                limit=BUFFER,
                cwd=ROOT,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C is for the server
            )
            async with asyncio.timeout(START_TIMEOUT):
                await self.exchange(self.setup)
        except OSError as error:
            await self.kill()
            raise ConnectionError(f"did not start: {str(error) or 'timeout'}") from None

    async def exchange(self, message: bytes) -> tuple[Header, bytes]:
        """Send a message and read the reply.

        Raises:
            ConnectionError: when the process ends instead.
        """
        assert self.process is not None
        requests, replies = self.process.stdin, self.process.stdout
        assert requests is not None
        assert replies is not None
        try:
            requests.write(message)
            await requests.drain()
            header: Header = json.loads(await replies.readline())
            return header, await replies.readexactly(header["bytes"])
        except (OSError, EOFError, ValueError):
            await self.kill()
            raise ConnectionError(f"ended by {self.format_end()}") from None

    async def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def format_end(self) -> str:
        status = self.process.returncode if self.process is not None else None
        return f"signal {-status}" if status is not None and status < 0 else f"status {status}"


class Decoders:
    """A pool of decoders. One that died is started again by the next request that takes it.

    Args:
        count: processes, each of which decodes one request at a time.
        metadata: of the model.
        limits: time for one request, and how long and how many may wait.
    """

    def __init__(self, count: int, metadata: Header, limits: Limits) -> None:
        self.limits = limits
        setup = pack({"metadata": metadata, "limits": vars(limits)})
        self.decoders = [Decoder(setup) for _ in range(count)]
        # The last one's memory is still warm.
        self.idle: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()
        self.num_waiting = self.num_replaced = 0

    async def start(self) -> None:
        """Start all decoders.

        Raises:
            ConnectionError: when one does not start.
        """
        await asyncio.gather(*[decoder.start() for decoder in self.decoders])
        for decoder in self.decoders:
            self._release(decoder)

    async def close(self) -> None:
        await asyncio.gather(*[decoder.kill() for decoder in self.decoders])

    def all_stuck(self) -> bool:
        """Whether each has worked on one request, or on its start, for longer than most take."""
        until = time.monotonic() - STUCK_AFTER
        return all(d.busy_since is not None and d.busy_since < until for d in self.decoders)

    async def decode(self, header: Header, *contents: bytes) -> Decoded:
        """Decode one request.

        Args:
            header: `several` for rows; for images `files`, the name and length of each.
            contents: the bytes of the body or of the files.

        Raises:
            Refusal: by a decoder, or because none is free in time, or because it took too long.
        """
        decoder = await self._take()
        try:
            return await self._decode(decoder, pack(header, *contents))
        finally:
            self._release(decoder)

    async def _decode(self, decoder: Decoder, message: bytes) -> Decoded:
        try:
            if not decoder.alive:
                await self._restart(decoder)
            async with asyncio.timeout(self.limits.decode):
                header, content = await decoder.exchange(message)
        except TimeoutError:
            await decoder.kill()
            reason = f"decoding took more than {self.limits.decode:g} s"
            log(f"killed: {reason}")
            raise Refusal(422, f"{reason}; send less, or simpler files") from None
        except ConnectionError as error:
            log(str(error))
            raise Refusal(422, f"cannot be decoded: the decoder {error}") from None
        except BaseException:  # after a cancellation, a late reply must not reach the next request
            await decoder.kill()
            raise
        if "status" in header:
            raise Refusal(header["status"], header["reason"])
        x = np.frombuffer(content, np.dtype(header["dtype"])).reshape(header["shape"])
        return Decoded(x, header["several"], header["notes"], header["sizes"])

    async def _restart(self, decoder: Decoder) -> None:
        log(f"ended by {decoder.format_end()}; starting another")
        self.num_replaced += 1
        try:
            await decoder.start()
        except ConnectionError as error:
            log(str(error))
            raise Refusal(503, f"the decoder {error}; try again later") from None

    async def _take(self) -> Decoder:
        """An idle decoder, now or after a wait."""
        if self.num_waiting >= self.limits.queue:
            reason = f"{self.num_waiting:,} requests already wait for a decoder"
            raise Refusal(429, f"{reason}; try again later")
        self.num_waiting += 1
        try:
            async with asyncio.timeout(self.limits.wait):
                decoder = await self.idle.get()
        except TimeoutError:
            reason = f"no decoder was free within {self.limits.wait:g} s; try again later"
            raise Refusal(503, reason) from None
        finally:
            self.num_waiting -= 1
        decoder.busy_since = time.monotonic()
        return decoder

    def _release(self, decoder: Decoder) -> None:
        decoder.busy_since = None
        self.idle.put_nowait(decoder)


def log(line: str) -> None:
    with suppress(OSError):  # the process that reads standard error may have been killed
        print(f"decoder    {line}", file=sys.stderr, flush=True)
