"""The process that responds to requests. server.py starts it, and replaces it when it ends."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import warnings
from asyncio import TimerHandle
from functools import partial
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from src.kindling.deploy.serving.access import Access
from src.kindling.deploy.serving.app import CONNECTIONS, Application
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

# At shutdown, clients that are about to send another request get LAST_REQUESTS seconds, and a
# response that closes the connection. Then running requests get UNDER_WAY seconds. Together less
# than the 5 s after which the supervisor kills.
LAST_REQUESTS, UNDER_WAY = 0.5, 3
MAX_HEAD = 1 << 16  # bytes of a request's line and headers


class BoundedProtocol(H11Protocol):
    """A connection that is refused when there are too many, and closed when the client is slow."""

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets that it made itself; else each response waits 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timer: TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            reason = f"more than {self.limits.connections} connections; try again later"
            self._refuse(503, reason)
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            self._stop_timer()
        elif self.timer is None and not self.transport.is_closing():  # an incomplete request
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in JSON."""
        self._refuse(400, "not a valid HTTP request, or its headers are too large")

    def _start_timer(self) -> None:
        reason = f"no complete request within {self.limits.patience:g} s"
        self.timer = self.loop.call_later(self.limits.patience, self._refuse, 408, reason)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse(self, status: int, reason: str) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            body = json.dumps({"error": reason})
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
            kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write((head + kind + body).encode())
            self.transport.close()


class Server(uvicorn.Server):
    """A server that loses no accepted request at shutdown, and reports to a supervisor, if any."""

    def __init__(self, application: Application, ready: Connection | None) -> None:
        self.application, self.ready = application, ready
        config = uvicorn.Config(
            application,
            http=BoundedProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=UNDER_WAY,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.application.decoders.start()
        await super().startup(sockets)
        supervisor = multiprocessing.parent_process()
        if self.ready is not None and supervisor is not None:
            loop, stop = asyncio.get_running_loop(), partial(setattr, self, "should_exit", True)
            loop.add_reader(supervisor.sentinel, stop)  # it has ended
            self.ready.send_bytes(b"ready")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.application.draining = True
        now = asyncio.get_running_loop().time
        until = now() + LAST_REQUESTS
        while self.server_state.connections and now() < until:
            await asyncio.sleep(0.02)
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.05)  # the last bytes are read
        await super().shutdown(sockets)
        await self.application.decoders.close()


def respond(
    path: Path,
    listener: socket.socket,
    limits: Limits,
    access: Access,
    ready: Connection | None = None,
) -> None:
    """Respond to requests about an ONNX file until a signal, or until the supervisor ends."""
    warnings.simplefilter("ignore")  # Pillow's, about the clients' files
    model = Model(path, limits.threads)
    BoundedProtocol.limits = limits
    server = Server(Application(model, limits, access), ready)
    CONNECTIONS.set_function(lambda: len(server.server_state.connections))
    server.run(sockets=[listener])
