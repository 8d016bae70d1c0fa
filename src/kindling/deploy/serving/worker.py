"""The process that responds to requests. supervisor.py starts it, and replaces it when it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
import warnings
from pathlib import Path

import uvicorn

from src.kindling.config.command import run_command
from src.kindling.deploy.serving.app import CONNECTIONS, Application
from src.kindling.deploy.serving.connections import Connection
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

# At shutdown, clients that are about to send another request get LAST_REQUESTS seconds, and a
# response that closes the connection. Then running requests get UNDER_WAY seconds. Together less
# than the 5 s after which the supervisor kills.
LAST_REQUESTS, UNDER_WAY = 0.5, 3
MAX_HEAD = 1 << 16  # bytes of a request's line and headers


class Server(uvicorn.Server):
    """A server that loses no accepted request at shutdown.

    Args:
        application: the application.
        supervised: whether standard input ends with the supervisor, and standard output reports
            that requests are accepted.
    """

    def __init__(self, application: Application, supervised: bool) -> None:
        self.application, self.supervised = application, supervised
        config = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            log_level="error",
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=UNDER_WAY,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # the present objects stay: later collections skip them
        if self.supervised:
            asyncio.get_running_loop().add_reader(0, self.stop)
            os.write(1, b"ready")

    def stop(self) -> None:
        self.should_exit = True

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


def respond(
    path: Path, listener: socket.socket, limits: Limits, key: str | None, supervised: bool = False
) -> None:
    """Respond to requests about an ONNX file until a signal, or until the supervisor ends."""
    warnings.simplefilter("ignore")  # Pillow's, about the clients' files
    model = Model(path, limits.threads)
    if model.spec.kind == "table":
        import pandas  # noqa: F401  # now, and not with the first request
    Connection.maximum, Connection.patience = limits.connections, limits.patience
    server = Server(Application(model, limits, key), supervised)
    CONNECTIONS.set_function(lambda: len(server.server_state.connections))
    server.run(sockets=[listener])


def main(_: list[str]) -> None:
    setup = json.loads(sys.stdin.readline())
    listener = socket.socket(fileno=setup["listener"])
    limits = Limits(**setup["limits"])
    respond(Path(setup["path"]), listener, limits, setup["key"], supervised=True)


if __name__ == "__main__":
    run_command(main)
