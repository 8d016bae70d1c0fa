"""Serve a run's model over HTTP, with a page to try it, for programs and for people.

    python -m src.serve RUN|MODEL.onnx [--port 8000] [--host 127.0.0.1] [--api-key-env NAME]

A run that was not exported yet is exported first. The process that answers imports no torch; when it dies, another
takes its place, and what waits to be accepted waits for that one.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.command import Parser, run_command
from src.errors import InputError

NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "onnxruntime": "onnxruntime",
          "python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}  # fmt: skip
SECONDS = 5  # after which what does not end by itself is killed
FOREVER = 86400 * 365
READY = b"r"


def exported(name: str) -> Path:
    """The ONNX file of a run, made now where there is none or the checkpoint is newer."""
    if name.endswith(".onnx"):
        if not Path(name).expanduser().is_file():
            raise InputError(f"{name}: no such file")
        return Path(name).expanduser().resolve()
    from src.config import ROOT
    from src.run import load_run, shown

    run = load_run(name)
    path = run.path / "export" / "model.onnx"
    if not path.exists() or path.stat().st_mtime < run.checkpoint_file.stat().st_mtime:
        print(f"export     {shown(path)}", flush=True)
        words = [sys.executable, "-m", "src.export", str(run.path if run.checkpoint_file.name == "best.ckpt" else name)]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise InputError(
                done.stderr.strip().splitlines()[-5:] or [f"{name}: the export ended with status {done.returncode}"]
            )
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
    return key


def work(path: Path, where: socket.socket, flags: Any, key: str | None, parent: int | None = None) -> None:
    """Answer requests, until a signal, or until the end of the process at the other end of `parent`.

    Args:
        path: the ONNX file.
        where: the socket, listening.
        flags: the command's.
        key: what clients have to know.
        parent: a file descriptor; told when requests are taken.
    """
    import asyncio
    import warnings

    import uvicorn

    from src.serving.app import Application, Limits
    from src.serving.connections import Connection, Server
    from src.serving.model import Model

    warnings.simplefilter("ignore")  # Pillow's, of what clients send
    model = Model(path, flags.threads)
    if model.spec.kind == "table":
        import pandas  # noqa: F401  # now, and not with the first request
    limits = Limits(int(flags.max_body * 1e6), flags.max_pixels, flags.max_rows, flags.batch, flags.queue, flags.wait,
                    flags.patience)  # fmt: skip
    Connection.most, Connection.patience = flags.connections, flags.patience
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
    flags: Any
    key: str | None
    child: int = 0
    stopping: bool = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT.

        Returns:
            The exit status: that of the process, where it did not come so far as to answer.
        """
        signals = {signal.SIGTERM, signal.SIGINT}
        for number in signals:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(self.child, signal.SIGKILL))
        while True:
            ours, theirs = socket.socketpair()
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            self.child = os.fork()
            if self.child == 0:
                ours.close()
                for number in signals:
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                run_command(partial(self._work, theirs.fileno()))
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            if self.stopping:
                self._stop()
            status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
            signal.alarm(0)
            ours.setblocking(False)
            was_ready = _received(ours) == READY
            ours.close()
            if self.stopping:
                return 0
            if not was_ready:
                return status if status > 0 else 1
            by = f"signal {-status}" if status < 0 else f"status {status}"
            print(f"worker     ended by {by}; another takes its place", file=sys.stderr, flush=True)

    def _work(self, parent: int, _: list[str]) -> None:
        work(self.path, self.where, self.flags, self.key, parent)

    def _stop(self, *_: Any) -> None:
        self.stopping = True
        self.where.close()
        signal.alarm(SECONDS)
        os.kill(self.child, signal.SIGTERM)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(1)
    except OSError:
        return b""


def main(argv: list[str]) -> int:
    parser = Parser("serve", "RUN|MODEL.onnx [--port N] [--host ADDRESS] [--api-key-env NAME] [limits]",
                    "Serve a run's model: a page at /, POST /predict, /docs, /metrics.")  # fmt: skip
    parser.add_argument("model", metavar="RUN|MODEL.onnx", help="a folder in logs/, 'latest', '<config>/latest', or a file "
                        "that src.export wrote (model.int8.onnx, say)")  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="8000 when left out; 0 takes any that is free"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="this machine alone when left out; any other "
                        "needs a key")  # fmt: skip
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the key, which all paths "
                        "but /, /docs and /health then need")  # fmt: skip
    numbers: dict[str, tuple[type, float, float, str, str]] = {
        "threads": (int, 1, 1, "N", "that the model computes one batch with"),
        "max-body": (float, 10, 1e-3, "MB", "of a request"),
        "max-pixels": (int, 20_000_000, 1, "N", "of a picture, read before it is decoded"),
        "max-rows": (int, 256, 1, "N", "pictures or rows in one request"),
        "batch": (int, 64, 1, "N", "inputs that the model takes at once"),
        "queue": (int, 1024, 1, "N", "inputs that may wait; more are refused (429)"),
        "wait": (float, 10, 1e-3, "SECONDS", "that a request may wait for the model (503)"),
        "connections": (int, 512, 1, "N", "open at once; more are refused (503)"),
        "patience": (float, 10, 1e-3, "SECONDS", "that a client has to send a request (408)"),
    }
    for name, (kind, value, _, metavar, about) in numbers.items():
        parser.add_argument(
            f"--{name}", type=kind, default=value, metavar=metavar, help=f"{about}; {value:,} when left out"
        )
    flags = parser.read(argv)
    lines = []
    for name, (_, _, least, _, _) in numbers.items():
        if not least <= (given := getattr(flags, name.replace("-", "_"))) < FOREVER:
            lines.append(f"--{name}: expected at least {least:g}, got {given:g}")
    if lines:
        raise InputError(lines)
    if missing := sorted({name for module, name in NEEDED.items() if find_spec(module) is None}):
        raise InputError(f"serve needs {', '.join(missing)}; install the extra: pip install -e '.[serve]'")
    key = read_key(flags.api_key_env)
    where = listen(flags.host, flags.port, key)
    path = exported(flags.model)
    host, port = where.getsockname()[:2]
    print(f"serving    {path}\npage       http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    if not hasattr(os, "fork"):  # Windows: one process, which nobody replaces
        work(path, where, flags, key)
        return 0
    status = Watch(path, where, flags, key).run()
    if status:
        raise SystemExit(status)
    return status


if __name__ == "__main__":
    run_command(main)
