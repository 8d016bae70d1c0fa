"""Start a worker, and replace it when it ends. Requests that wait are accepted by the next one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from src.kindling.deploy.serving.limits import Limits

ROOT = Path(__file__).parents[4]
COMMAND = (sys.executable, "-m", "src.kindling.deploy.serving.worker")
KILL_AFTER = 5  # seconds after SIGTERM
DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before a restart after a worker that was never ready
TAIL_BYTES = 2000  # of a worker's standard error, printed when the server gives up
INPUT_ERROR = 2  # status of a worker whose input is wrong; a restart would not help


@dataclass
class Supervisor:
    """Keeps one worker running.

    Args:
        path: the ONNX file.
        listener: the socket, which outlives workers.
        limits: of a request.
        key: that clients have to send.
    """

    path: Path
    listener: socket.socket
    limits: Limits
    key: str | None
    worker: subprocess.Popen[bytes] | None = None
    stopping: bool = False
    stderr_tail: bytes = b""  # of the present worker

    def run(self) -> int:
        """Run workers until SIGTERM or SIGINT.

        Returns:
            The exit status: 0, or when no worker became ready, the last one's, or 1.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, lambda *_: self._signal_worker(signal.SIGKILL))
        failures = 0
        while not self.stopping:
            was_ready, status = self._run_worker()
            end = f"ended by signal {-status}" if status < 0 else f"ended by status {status}"
            if self.stopping:
                break
            if was_ready:
                failures = 0
                log(f"{end}; starting another")
                continue
            if status == INPUT_ERROR:  # it has printed the mistake
                return status
            if failures == len(DELAYS):
                times = f"before it was ready, {failures + 1} times in a row"
                log(f"{end} {times}; {format_tail(self.stderr_tail)}")
                return max(status, 1)
            log(f"{end} before it was ready; starting another in {DELAYS[failures]:g} s")
            self._sleep(DELAYS[failures])
            failures += 1
        signal.alarm(0)
        return 0

    def _run_worker(self) -> tuple[bool, int]:
        """Run one worker to its end.

        Returns:
            Whether it was ready, and its status; negative for a signal.
        """
        fd = self.listener.fileno()
        # Started in a new session: Ctrl-C reaches only this process, which then sends SIGTERM.
        worker = subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=[fd],
            start_new_session=True,
        )
        self.worker = worker
        if self.stopping:
            self._stop()
        setup = {"listener": fd, "path": str(self.path), "limits": vars(self.limits)}
        assert worker.stdin is not None
        assert worker.stdout is not None
        with suppress(BrokenPipeError):
            worker.stdin.write(json.dumps(setup | {"key": self.key}).encode() + b"\n")
            worker.stdin.flush()
        forward = threading.Thread(target=self._forward_stderr, args=[worker.stderr], daemon=True)
        forward.start()
        status = worker.wait()
        self.worker = None
        forward.join(0.5)  # a decoder of the worker may keep the pipe open
        with worker.stdout:
            was_ready = bool(worker.stdout.read())
        with suppress(BrokenPipeError):
            worker.stdin.close()
        return was_ready, status

    def _forward_stderr(self, stderr: Any) -> None:
        self.stderr_tail = b""
        while data := stderr.read1(65536):
            self.stderr_tail = (self.stderr_tail + data)[-TAIL_BYTES:]
            with suppress(OSError):  # the reader of standard error has ended
                os.write(2, data)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < until:
            time.sleep(0.05)

    def _stop(self, *_: Any) -> None:
        self.stopping = True
        if self.worker is not None:
            self.listener.close()
            signal.alarm(KILL_AFTER)
            self._signal_worker(signal.SIGTERM)

    def _signal_worker(self, number: int) -> None:
        if self.worker is not None:
            self.worker.send_signal(number)


def format_tail(stderr_tail: bytes) -> str:
    lines = stderr_tail.decode(errors="replace").strip().splitlines()
    return "\n    ".join(["its last output:", *lines[-10:]]) if lines else "it printed nothing"


def log(line: str) -> None:
    print(f"worker     {line}", file=sys.stderr, flush=True)
