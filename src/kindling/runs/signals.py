"""Signals: a training ends its step, saves, and exits with 128 + the signal's number."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

# SLURM sends SIGUSR1 ahead of a time limit with `--signal`.
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(SystemExit):
    """Raised to end a training on a signal; exits with status 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Interrupts:
    """While entered, records the first signal in `received`, which a training checks.

    Outside a training (before its first step, between two), a signal raises `Interrupted` at once.
    A second Ctrl-C exits immediately.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.watched = False  # whether a training looks at `received`
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def install(self) -> None:
        """Install the handlers; again when a training starts, since Lightning replaces them."""
        if threading.current_thread() is threading.main_thread():  # only the main thread may
            for number in SIGNALS:
                self.before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._handle)

    def stop(self) -> NoReturn:
        """End the training here."""
        assert self.received is not None
        raise Interrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a process that was forked from the training
        if self.received is not None and number == signal.SIGINT:
            sys.stderr.write("\nended at once: nothing was saved since the last checkpoint\n")
            sys.stderr.flush()
            os._exit(128 + number)
        self.received = number
        if not self.watched:
            self.stop()


def in_worker(_: int) -> None:
    """Let a loader's worker survive a signal to the process group, so that the training can save.

    It ends with the training; if the training is stuck, 15 seconds after SIGTERM.
    """

    def later(*_: Any) -> None:
        timer = threading.Timer(15, os._exit, [128 + signal.SIGTERM])
        timer.daemon = True
        timer.start()

    for number in SIGNALS:
        signal.signal(number, later if number == signal.SIGTERM else signal.SIG_IGN)
