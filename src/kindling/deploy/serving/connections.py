"""Connections with a bound on their number, and on the time to send a request."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio import TimerHandle
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol


def format_refusal(status: int, reason: str) -> bytes:
    """The bytes of a whole response, after which the connection is closed."""
    body = json.dumps({"error": reason})
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", body]).encode()


class Connection(H11Protocol):
    """A connection that is refused when there are too many, and closed when the client is slow.

    Attributes:
        maximum: connections at once.
        patience: seconds for a client to send the head of a request.
    """

    maximum, patience = 512, 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets that it made itself; else each response waits 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timer: TimerHandle | None = None
        if len(self.connections) > self.maximum:
            self._refuse(503, f"more than {self.maximum} connections; try again later")
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self.timer is None and not self.transport.is_closing():  # an incomplete head
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in JSON."""
        self._refuse(400, "not a valid HTTP request, or its headers are too large")

    def _start_timer(self) -> None:
        reason = f"no complete request within {self.patience:g} s"
        self.timer = self.loop.call_later(self.patience, self._refuse, 408, reason)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse(self, status: int, reason: str) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(format_refusal(status, reason))
            self.transport.close()
