"""Loggers that cannot end a training: curves can be lost, the weights must not be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

SHIELDED = ("log_metrics", "log_hyperparams", "log_result", "save", "finalize", "close")


def shielded(logger: Logger) -> Logger:
    """The same logger; what it raises (a full disk, a server that is gone) is told once and lets the training go on."""
    told: list[str] = []

    def shield(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                cause = error.__cause__ or error  # Lightning's TensorBoard takes a full disk for a wrong value
                if not told:
                    told.append(str(cause))
                    print(f"{type(logger).__name__}: {type(cause).__name__}: {cause}; the training goes on without it")
                return None

        return call

    for name in SHIELDED:
        if hasattr(logger, name):
            setattr(logger, name, shield(getattr(logger, name)))
    return logger
