"""Mute a run's loggers in the final test, and finish a W&B run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger

MUTED = (
    "log_metrics",
    "log_hyperparams",
    "log_graph",
    "save",
    "finalize",
    "after_save_checkpoint",
)


@contextmanager
def muted(loggers: Sequence[Logger]) -> Iterator[None]:
    """Drop what the Trainer logs; a task can still write to `self.logger.experiment`."""

    def drop(*args: Any, **kwargs: Any) -> None:
        return None

    # Methods may be replaced on the instance already (run_loggers.py).
    before = [
        {name: method for name, method in vars(logger).items() if name in MUTED}
        for logger in loggers
    ]
    for logger in loggers:
        vars(logger).update(dict.fromkeys(MUTED, drop))
    try:
        yield
    finally:
        for logger, methods in zip(loggers, before, strict=True):
            for name in MUTED:
                del vars(logger)[name]
            vars(logger).update(methods)


def finish_wandb(run_id: str, exit_code: int) -> None:
    """End the process's W&B run if it has this ID: else the next training's logger continues it.

    A run that was begun outside of the training stays open.
    """
    wandb = sys.modules.get("wandb")
    active = getattr(wandb, "run", None)
    if wandb is None or active is None or active.id != run_id:
        return
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:
        print(
            f"wandb: not finished: {type(error).__name__}: {error}; "
            "upload the run with 'wandb sync'"
        )
