"""Loggers that cannot end a training: curves can be lost, the weights must not be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

SHIELDED = ("log_metrics", "log_hyperparams", "log_result", "save", "finalize", "close")


def shielded(logger: Logger) -> Logger:
    """Return the logger; its exceptions (a full disk, a lost server) are printed once only."""
    printed: list[str] = []

    def shield(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                # Lightning's TensorBoard raises a ValueError from that of a full disk.
                cause = error.__cause__ or error
                if not printed:
                    printed.append(str(cause))
                    print(
                        f"{type(logger).__name__}: {type(cause).__name__}: {cause}; "
                        "training continues without it"
                    )
                return None

        return call

    for name in SHIELDED:
        if hasattr(logger, name):
            setattr(logger, name, shield(getattr(logger, name)))
    return logger
