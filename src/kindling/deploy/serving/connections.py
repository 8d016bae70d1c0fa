"""uvicorn's server and connections, with what they leave open: how many there may be, who sends too slowly, a clean end.

src/serve.py runs it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

LONGEST_HEAD = 1 << 16  # bytes of a request's line and headers
# At the end, clients that are about to ask again are answered for so many seconds, and told that it was the last time;
# then what is under way gets so many more. Together less than the 5 s after which a server is killed.
LAST, UNDER_WAY = 0.5, 3

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
else:
    Base = AutoHTTPProtocol


def refusal(status: int, reason: str) -> bytes:
    """A whole response in bytes, after which the connection is closed."""
    body = json.dumps({"error": reason}).encode()
    return (f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n").encode() + body  # fmt: skip


class Connection(Base):
    """A connection that is refused when there are too many, and closed when a request does not come.

    Attributes:
        most: connections at once.
        patience: seconds that a client has to send the head of a request.
    """

    most, patience = 512, 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this for sockets that it made itself; else each answer waits 40 ms for the client's system.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timer: TimerHandle | None = None
        self.head = 0
        if len(self.connections) > self.most:
            self._refuse(503, f"more than {self.most} connections; try again later")
        else:
            self.timer = self.loop.call_later(self.patience, self._refuse, 408, "no request came in time")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # the head is not there yet
            self.head += len(data)
            if self.head > LONGEST_HEAD:
                self._refuse(431, f"more than {LONGEST_HEAD:,} bytes of headers")
            elif self.timer is None and not self.transport.is_closing():
                self.timer = self.loop.call_later(self.patience, self._refuse, 408, "no whole request came in time")
        elif self.timer is not None:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in JSON."""
        self._refuse(400, "this is no HTTP request that can be read")

    def _forget(self) -> None:
        self.head = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse(self, status: int, reason: str) -> None:
        self._forget()
        if not self.transport.is_closing():
            self.transport.write(refusal(status, reason))
            self.transport.close()


class Server(uvicorn.Server):
    """A server that loses no request when it ends.

    Args:
        config: uvicorn's.
        draining: called when the end begins: from then on, responses say that the connection closes.
        ready: called when requests are taken.
    """

    def __init__(self, config: uvicorn.Config, draining: Callable[[], Any], ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self.draining, self.ready = draining, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.draining()
        until = asyncio.get_running_loop().time() + LAST
        while self.server_state.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.05)  # what came last is read
        await super().shutdown(sockets)
