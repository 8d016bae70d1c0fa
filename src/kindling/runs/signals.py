"""Signals: a training that is asked to stop ends its step, saves, and exits with 128 + the signal's number."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

# What schedulers, terminals and clusters send: SLURM sends SIGUSR1 ahead of a time limit where it is asked to.
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(SystemExit):
    """Raised where a training ends because of a signal; as a process's end its status is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Interrupts:
    """While it is entered, the first signal is noted, and the training looks at `received` where it can stop.

    Where nobody looks (before the first step, between trainings), the signal ends the program at once by `Interrupted`.
    A second Ctrl-C ends the process on the spot.
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
        """Take over the signals. Called again when a training begins: Lightning puts its own handlers there."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may
        for number in SIGNALS:
            found = signal.signal(number, self._handle)
            self.before.setdefault(number, found)

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
    """Let a loader's worker go on after a signal to the whole group, so that the training can end in order.

    It goes with the training; where the training is stuck, some time after SIGTERM.
    """

    def later(*_: Any) -> None:
        timer = threading.Timer(15, os._exit, [128 + signal.SIGTERM])
        timer.daemon = True
        timer.start()

    for number in SIGNALS:
        signal.signal(number, later if number == signal.SIGTERM else signal.SIG_IGN)
