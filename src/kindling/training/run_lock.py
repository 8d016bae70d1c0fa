"""Lock a run, so that one training at a time writes to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from src.kindling.config.errors import InputError
from src.kindling.runs.files import display_path
from src.kindling.runs.run import Run
from src.kindling.training.distributed import rank

# Files of a process that was killed while it wrote them.
LEFTOVERS = ("*.tmp", "checkpoints/*.tmp", ".probe-*")


@contextmanager
def lock_run(run: Run, values: Mapping[str, Any]) -> Iterator[None]:
    """Hold the run's lock while entered; rank 0 holds it for a distributed training.

    Raises:
        InputError: naming the process that holds the lock.
        OSError: when a file cannot be written.
    """
    from filelock import FileLock, Timeout

    if rank(values):
        yield
        return
    lock, owner = FileLock(run.path / ".lock", timeout=0), run.path / ".owner"
    try:
        lock.acquire()
    except Timeout:
        holder = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        line = f"{display_path(run.path)}: is being trained by {holder}; wait for it, or stop it"
        raise InputError(line) from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        for file in (file for pattern in LEFTOVERS for file in run.path.glob(pattern)):
            file.unlink()
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()
