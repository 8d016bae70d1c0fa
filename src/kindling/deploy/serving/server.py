"""Serve a run's model over HTTP, with a page to try it, for programs and for people.

    python -m src.serve RUN|MODEL.onnx [--port 8000] [--host 127.0.0.1] [--api-key-env NAME]

A run that was not exported yet is exported first. The process that answers imports no torch; when it dies, another
takes its place, and what waits to be accepted waits for that one.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from src.kindling.config.command import run_command
from src.kindling.config.errors import InputError
from src.kindling.deploy.serving.limits import Limits

NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "onnxruntime": "onnxruntime",
          "python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}  # fmt: skip
SECONDS = 5  # after which what does not end by itself is killed
READY = b"r"
DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before a worker is started again that was not ready yet; then no more
LAST_BYTES = 2000  # of a worker's output, printed when the server gives up
WRONG_INPUT = 2  # the status of a worker that cannot work with what it was given, however often it is started


def exported(name: str) -> Path:
    """The ONNX file of a run, made now where there is none or the checkpoint is newer."""
    if name.endswith(".onnx"):
        if not Path(name).expanduser().is_file():
            raise InputError(f"{name}: no such file")
        return Path(name).expanduser().resolve()
    from src.kindling.config.compose import ROOT
    from src.kindling.runs.files import shown
    from src.kindling.runs.run import find_run

    run = find_run(name)
    path = run.path / "export" / "model.onnx"
    named = name.endswith(".ckpt")  # and may not be what was exported
    if named or not path.exists() or path.stat().st_mtime < run.checkpoint_file.stat().st_mtime:
        print(f"export     {shown(path)}", flush=True)
        words = [sys.executable, "-m", "src.export", str(run.checkpoint_file.resolve() if named else run.path)]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            ended = f"{name}: the export ended with status {done.returncode}"
            raise InputError(done.stderr.strip().splitlines()[-5:] or [ended])
    return path


def listen(host: str, port: int, key: str | None) -> socket.socket:
    """The socket at which requests come; any but this machine's own address needs a key."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host}: no address of this machine: {error}") from None
    if key is None and not all(ipaddress.ip_address(one[4][0]).is_loopback for one in found):
        raise InputError(f"--host {host}: others reach that too; name the variable that holds a key for them: "
                         "--api-key-env KINDLING_KEY")  # fmt: skip
    try:
        return socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--port {port}: cannot be listened at: {reason}; name another, or 0 for any") from None


def read_key(name: str | None) -> str | None:
    """The key in an environment variable."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(f"--api-key-env {name}: the variable is {'not plain ASCII' if key else 'not set, or empty'}; "
                         f"for instance: export {name}=$(openssl rand -hex 16)")  # fmt: skip
    del os.environ[name]  # the processes that decode what clients send need not know it
    return key


def work(path: Path, where: socket.socket, limits: Limits, key: str | None, parent: int | None = None) -> None:
    """Answer requests, until a signal, or until the end of the process at the other end of `parent`.

    Args:
        path: the ONNX file.
        where: the socket, listening.
        limits: what a request may take.
        key: what clients have to know.
        parent: a file descriptor; told when requests are taken.
    """
    import asyncio
    import warnings

    import uvicorn

    from src.kindling.deploy.serving.app import Application
    from src.kindling.deploy.serving.connections import Connection, Server
    from src.kindling.deploy.serving.model import Model

    warnings.simplefilter("ignore")  # Pillow's, of what clients send
    model = Model(path, limits.threads)
    if model.spec.kind == "table":
        import pandas  # noqa: F401  # now, and not with the first request
    Connection.most, Connection.patience = limits.connections, limits.patience
    application = Application(model, limits, key, lambda: len(server.server_state.connections))

    def draining() -> None:
        application.draining = True

    def ready() -> None:
        gc.collect()
        gc.freeze()  # what lies in memory now stays: it need not be looked through again and again
        if parent is not None:
            os.write(parent, READY)
            asyncio.get_running_loop().add_reader(parent, lambda: setattr(server, "should_exit", True))

    config = uvicorn.Config(application, http=Connection, ws="none", log_level="error", access_log=False, lifespan="on",
                            server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=3)  # fmt: skip
    server = Server(config, draining, ready)
    server.run(sockets=[where])


@dataclass
class Watch:
    """The process that started: has another one answer, and puts a new one into the place of one that died."""

    path: Path
    where: socket.socket
    limits: Limits
    key: str | None
    child: int = 0
    stopping: bool = False
    said: bytes = b""  # what the present worker printed last

    def run(self) -> int:
        """Until SIGTERM or SIGINT.

        Returns:
            The exit status: 0, or when no worker came so far as to answer, the last one's, or 1.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
        failures = 0
        while True:
            ours, errors = self._start()
            was_ready, status = self._follow(ours, errors)
            self.child = 0
            signal.alarm(0)
            if self.stopping:
                return 0
            by = f"signal {-status}" if status < 0 else f"status {status}"
            if was_ready:
                failures = 0
                _tell(f"ended by {by}; another takes its place")
                continue
            if status == WRONG_INPUT:  # it has printed what is wrong
                return status
            if failures == len(DELAYS):
                _tell(f"ended by {by} before it was ready, {failures + 1} times in a row; {self._last_words()}")
                return status if status > 0 else 1
            delay = DELAYS[failures]
            failures += 1
            _tell(f"ended by {by} before it was ready; another takes its place in {delay:g} s")
            until = time.monotonic() + delay
            while not self.stopping and time.monotonic() < until:
                time.sleep(0.05)
            if self.stopping:
                return 0

    def _start(self) -> tuple[socket.socket, int]:
        """Start a worker.

        Returns:
            The socket on which it reports that it is ready, closed when it ends; and its standard error.
        """
        ours, theirs = socket.socketpair()
        errors, its_errors = os.pipe()
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self.child = os.fork()
        if self.child == 0:
            ours.close()
            os.close(errors)
            os.dup2(its_errors, 2)
            os.close(its_errors)
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            run_command(partial(self._work, theirs.fileno()))
        theirs.close()
        os.close(its_errors)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        if self.stopping:
            self._stop()
        return ours, errors

    def _follow(self, ours: socket.socket, errors: int) -> tuple[bool, int]:
        """Pass on what a worker prints, until its end.

        Returns:
            Whether it was ready, and its status; negative for a signal.
        """
        os.set_blocking(errors, False)
        ours.setblocking(False)
        self.said, was_ready, ended = b"", False, 0
        watched: list[Any] = [ours, errors]
        while not ended:
            # A child of the worker may keep this pipe open, so its end does not show that the worker ended.
            for end in select.select(watched, [], [], None if ours in watched else 0.02)[0]:
                if end is ours:
                    received = _received(ours)
                    was_ready = was_ready or received == READY
                    if not received:
                        watched.remove(ours)
                elif not self._pass_on(errors):
                    watched.remove(errors)
            if ours not in watched:
                ended, status = os.waitpid(self.child, os.WNOHANG)
        while self._pass_on(errors):
            pass
        ours.close()
        os.close(errors)
        return was_ready, os.waitstatus_to_exitcode(status)

    def _pass_on(self, errors: int) -> bool:
        """Write on what there is of a worker's standard error; False at its end, or where nothing is left."""
        try:
            data = os.read(errors, 65536)
        except BlockingIOError:
            return False
        self.said = (self.said + data)[-LAST_BYTES:]
        with suppress(OSError):  # nobody listens
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
        return bool(data)

    def _last_words(self) -> str:
        lines = self.said.decode(errors="replace").strip().splitlines()
        return "\n    ".join(["it printed last:", *lines[-10:]]) if lines else "it printed nothing"

    def _work(self, parent: int, _: list[str]) -> None:
        work(self.path, self.where, self.limits, self.key, parent)

    def _stop(self, *_: Any) -> None:
        self.stopping = True
        self.where.close()
        signal.alarm(SECONDS)
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        if self.child:  # 0 would be whoever started the server too
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.child, number)


def _tell(line: str) -> None:
    print(f"worker     {line}", file=sys.stderr, flush=True)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(1)
    except OSError:
        return b""


def _wrong_port(port: int) -> list[str]:
    """The system would take the number modulo 65536."""
    return [] if 0 <= port <= 65535 else [f"--port: expected a number from 0 to 65535, got {port}"]


def _wrong_limits(given: dict[str, float]) -> list[str]:
    lines = []
    for one in fields(Limits):
        value, most = given[one.name], one.metadata["most"]
        flag = f"--{one.name.replace('_', '-')}"
        if not value > 0:
            lines.append(f"{flag}: expected more than 0, got {value:g}")
        elif value > most:
            lines.append(f"{flag}: expected at most {most:,}, got {value:g}")
    return lines
