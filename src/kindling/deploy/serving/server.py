"""The supervisor of the worker, and the model's file, the socket and the key for it.

It imports none of the worker's libraries, which may be missing.
"""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from src.kindling.config.command import run_command
from src.kindling.config.errors import InputError
from src.kindling.deploy.serving.access import Access, choose_hosts
from src.kindling.deploy.serving.limits import Limits

KILL_AFTER = 5  # seconds after SIGTERM
DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before a restart after a worker that was never ready
LIBRARIES = ("onnxruntime", "prometheus-client", "python-multipart", "starlette", "uvicorn")


def check_libraries() -> None:
    if missing := [name for name in LIBRARIES if find_spec(name.replace("-", "_")) is None]:
        remedy = "install the extra: pip install -e '.[serve]'"
        raise InputError(f"serve needs {', '.join(missing)}; {remedy}")


def find_model(name: str) -> Path:
    """Find the ONNX file of a run; export it if it is missing or older than the checkpoint."""
    if name.endswith(".onnx"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"{name}: no such file")
        return path.resolve()
    from src.kindling.config.compose import ROOT
    from src.kindling.runs.files import display_path
    from src.kindling.runs.run import find_run

    run = find_run(name)
    path = run.path / "export" / "model.onnx"
    is_checkpoint = name.endswith(".ckpt")  # which the existing export may not come from
    newest = path.exists() and path.stat().st_mtime >= run.checkpoint_file.stat().st_mtime
    if is_checkpoint or not newest:
        try:  # before the seconds that an export takes
            path.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            problem = f"cannot be written: {error.strerror}; make its folder writable"
            raise InputError(f"{display_path(path)}: {problem}") from None
        print(f"export     {display_path(path)}", flush=True)
        source = run.checkpoint_file.resolve() if is_checkpoint else run.path
        command = [sys.executable, "-m", "src.export", str(source)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            failed = f"{name}: src.export failed with status {done.returncode}"
            raise InputError(done.stderr.strip().splitlines()[-5:] or [failed])
    return path


def listen(host: str, port: int, key: str | None, hosts: str) -> tuple[socket.socket, Access]:
    """Open the socket, and decide who may send requests to it; other machines need a key."""
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise InputError(f"--port: expected a number from 0 to 65535, got {port}")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: not an address of this machine: {error}") from None
    local = all(ipaddress.ip_address(address[4][0]).is_loopback for address in addresses)
    if key is None and not local:
        remedy = "set a key in a variable and pass its name: --api-key-env KINDLING_KEY"
        raise InputError(f"--host {host}: other machines can reach this address; {remedy}")
    family, *_, address = addresses[0]
    access = Access(key, choose_hosts(host, local, hosts))
    try:
        return socket.create_server(address[:2], family=family, backlog=2048), access
    except OSError as error:
        remedy = "pass another port, or 0 for a free one"
        raise InputError(f"--port {port}: cannot listen: {error.strerror}; {remedy}") from None


def read_key(name: str | None) -> str | None:
    """Read the key from an environment variable, and remove it from there."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        problem = "the variable is not plain ASCII" if key else "the variable is not set, or empty"
        example = f"set it, for example: export {name}=$(openssl rand -hex 16)"
        raise InputError(f"--api-key-env {name}: {problem}; {example}")
    del os.environ[name]  # decoders need not know it
    return key


def run_worker(*arguments: Any) -> None:
    """Run `respond` of worker.py as a process."""
    from src.kindling.deploy.serving.worker import respond

    os.setsid()  # Ctrl-C reaches only the supervisor, which then sends SIGTERM
    run_command(lambda _: respond(*arguments))


def supervise(
    path: Path, listener: socket.socket, limits: Limits, access: Access, lines: str
) -> int:
    """Run workers on one socket, one after the other, until a signal; return the exit status.

    When the first of them has accepted the file and is ready, `lines` are printed.
    """
    if os.name == "nt":  # one process, without a supervisor
        from src.kindling.deploy.serving.worker import respond

        print(lines, flush=True)
        respond(path, listener, limits, access)
        return 0
    stop, signaled = multiprocessing.Pipe(duplex=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: signaled.send_bytes(b"stop"))
    # multiprocessing's tracker, at the end, would report the open resources of a killed worker.
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ.setdefault("PYTHONWARNINGS", quiet)
    spawn, failures = multiprocessing.get_context("spawn"), 0
    while True:
        ready, theirs = spawn.Pipe(duplex=False)
        worker = spawn.Process(target=run_worker, args=(path, listener, limits, access, theirs))
        worker.start()
        if lines and ready in wait([ready, worker.sentinel, stop]):
            with suppress(BrokenPipeError):  # of `| head -0`; it serves all the same
                print(lines, flush=True)
            lines = ""
        if stop in wait([worker.sentinel, stop]):
            listener.close()
            worker.terminate()
            worker.join(KILL_AFTER)
            worker.kill()
            return 0
        worker.join()
        status = worker.exitcode or 0
        end = f"ended by signal {-status}" if status < 0 else f"ended by status {status}"
        if ready.poll():
            failures = 0
            log(f"{end}; starting another")
            continue
        if status == InputError.status:  # it has printed the mistake, and a restart would not help
            return status
        if failures == len(DELAYS):
            log(f"{end} before it was ready, {failures + 1} times in a row")
            return max(status, 1)
        log(f"{end} before it was ready; starting another in {DELAYS[failures]:g} s")
        if wait([stop], DELAYS[failures]):
            return 0
        failures += 1


def log(line: str) -> None:
    print(f"worker     {line}", file=sys.stderr, flush=True)
