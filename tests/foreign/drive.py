"""A command of Kindling over the configs of this folder, as a process of its own.

    python -m tests.foreign.drive LOGS [--kill STEP[@RANK]] VERB ARGUMENTS

`--kill` ends the process with SIGKILL after so many optimizer steps, each of which is saved; of several
processes all, or that of the rank. A process that hangs ends itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.cases import CONFIGS

LIMIT = 120  # seconds


@contextmanager
def foreign(logs: Path) -> Iterator[pytest.MonkeyPatch]:
    """Read configs from this folder, allow its package, and write runs elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.kindling.config.compose.CONFIGS", CONFIGS)
        patch.setattr("src.kindling.config.targets.allowed_by_user", lambda: ("tests",))
        patch.setattr("src.kindling.runs.run.LOGS", logs)
        yield patch


def kill_after(step: int, rank: int | None = None) -> Callable[..., None]:
    """A hook that ends this process, or only that of the rank, at a batch's start."""

    def on_train_batch_start(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step >= step and rank in (None, trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)

    return on_train_batch_start


if __name__ == "__main__":
    import importlib

    from src.kindling.config.command import run_command

    if hasattr(signal, "alarm"):
        signal.alarm(LIMIT)
    arguments = sys.argv[1:]
    folder = Path(arguments.pop(0))
    with foreign(folder) as patching:
        if arguments[0] == "--kill":
            limit = [int(number) for number in arguments[1].split("@")]
            arguments = arguments[2:]
            patching.setattr(
                "src.kindling.training.run_loggers.Curves.on_train_batch_start",
                kill_after(*limit),
                raising=False,
            )
        main = importlib.import_module(f"src.{arguments[0]}").main
        run_command(lambda _: main(arguments[1:]))  # sys.argv stays: DDP starts this file again
