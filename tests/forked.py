"""Real processes that start in 0.1 s: forks of a helper that has imported torch and Lightning, and nothing of src.

A test needs a process of its own for its signals, exit status and files; the imports that each would repeat take four
seconds. What a process does before them is tested by `python` itself, see `command` in conftest.py.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PIPE_BYTES = 1 << 20  # of output, which is read when the process has ended


class ForkedProcess:
    """`python -u *argv` as a process group of its own, with the interface of `subprocess.Popen`."""

    args: list[str]
    returncode: int | None = None

    def __init__(
        self, *argv: str, cwd: Path, env: dict[str, str] | None = None, merge: bool = True
    ) -> None:
        self.args = [sys.executable, *argv]
        self.answers, theirs = socket.socketpair()
        source, into = os.pipe()
        self.stdin = os.fdopen(into, "w", encoding="utf-8")
        self.stdout, out = _pipe()
        self.stderr, error = (None, out) if merge else _pipe()
        request = {"argv": argv, "cwd": str(cwd), "env": {**os.environ, **(env or {})}}
        content = json.dumps(request).encode()
        with theirs:
            numbers = [theirs.fileno(), source, out, error]
            socket.send_fds(_helper(), [b"%8d" % len(content)], numbers)
        _helper().sendall(content)
        for number in {source, out, error}:
            os.close(number)
        self.pid = int(self.answers.recv(16))

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(timeout=0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.answers.settimeout(timeout)
            try:
                self.returncode = int(self.answers.recv(16))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self.answers.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.stdin.close()
        self.wait(timeout)
        with self.stdout as stdout:
            output = stdout.read()
        if self.stderr is None:
            return output, ""
        with self.stderr as stderr:
            return output, stderr.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    *argv: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of `python *argv`."""
    process = ForkedProcess(*argv, cwd=cwd, env=env, merge=False)
    stdout, stderr = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _pipe() -> tuple[Any, int]:
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return open(out, encoding="utf-8"), into


@cache
def _helper() -> socket.socket:
    """The connection to the helper, which ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-u", __file__, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# ---------------------------------------------------------------------------------------------------------------
# In the helper


def serve(requests: socket.socket) -> list[str]:
    """Fork for each request; returns in the new process alone, with its command line."""
    import_module("preloaded")  # beside this script
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        length, numbers, _, _ = socket.recv_fds(requests, 8, 4)
        if not length:
            os._exit(0)
        request = json.loads(requests.recv(int(length), socket.MSG_WAITALL))
        if fork() == 0:
            return begin(request, *numbers)
        for number in numbers:
            os.close(number)


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside numpy's threads
        return os.fork()


def begin(request: dict[str, Any], answers: int, source: int, out: int, error: int) -> list[str]:
    """Fork once more, so that one process waits for the other's exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = fork()
    if child:
        os.close(source), os.close(out), os.close(error)
        os.write(answers, b"%d" % child)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.setsid()
    os.dup2(source, 0), os.dup2(out, 1), os.dup2(error, 2)
    for number in (answers, source, out, error):
        os.close(number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return list(request["argv"])


def execute(argv: list[str]) -> None:
    """What `python -m module …` or `python script …` does; the script is in the current folder."""
    sys.orig_argv = [sys.executable, *argv]
    own = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    sys.path[:1] = [os.getcwd(), *own]
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    execute(serve(socket.socket(fileno=int(sys.argv[1]))))
