"""Print what a study waits for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def announce(what: str, first: float = 60.0) -> Iterator[None]:
    """Print `what` as long as it is entered: after `first` seconds, then 2, 4, … times as long."""
    ended, output = threading.Event(), sys.stdout  # a training has another sys.stdout

    def repeat() -> None:
        started, pause = time.monotonic(), first
        while not ended.wait(pause):
            seconds = time.monotonic() - started
            print(f"waiting    {what} ({seconds:.0f} s)", file=output, flush=True)
            pause *= 2

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
