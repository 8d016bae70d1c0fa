"""What the processes of a study share: a storage of Optuna's, in a file or on a PostgreSQL server, and its lock."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from src.kindling.config.errors import InputError
from src.kindling.runs.redact import redact

# Seconds between two signs of life; without one until a worker on another machine counts as dead; and for how long a
# storage may be away.
HEARTBEAT, GRACE, PATIENCE = 10, 60, 600
T = TypeVar("T")


def load_optuna() -> Any:
    """Optuna, which only studies need.

    Raises:
        InputError: when it is not installed.
    """
    try:
        import optuna
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise InputError("a study needs Optuna; install it: pip install -e '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        r".* is( an)? experimental",  # heartbeats, and pictures by matplotlib
        r"Heartbeat of storage is supposed to be used",  # the workers send it themselves
        r"The reported value is ignored because this `step`",  # a member that was killed reports it again
    ):
        warnings.filterwarnings("ignore", message=message)
    return optuna


@contextmanager
def locked(url: str) -> Iterator[None]:
    """One process at a time, of all that use the storage."""
    if url.startswith("sqlite"):
        from filelock import FileLock

        with FileLock(url.removeprefix("sqlite:///") + ".lock"):
            yield
        return
    from sqlalchemy import text

    with _engine(url).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('kindling'))"))
        yield
        connection.execute(text("SELECT 1"))  # raises where the lock was lost, with its connection


def connect(url: str) -> Any:
    """The storage, with its tables; while it is locked, since two that make them at once collide."""
    storages = load_optuna().storages
    return storages.RDBStorage(url, _options(url), heartbeat_interval=HEARTBEAT, grace_period=GRACE)


@functools.cache
def _engine(url: str) -> Any:
    from sqlalchemy import create_engine

    return create_engine(url, **_options(url))


def _options(url: str) -> dict[str, Any]:
    """For SQLAlchemy: how many seconds a locked file, or a server that does not answer, is waited for."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 60}}
    return {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}


def patiently(action: Callable[[], T], stopped: Callable[[], bool] = lambda: False) -> T:
    """Do what a storage that is away for a while refuses, again and again."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    until, pause = time.monotonic() + PATIENCE, 0.0
    while True:
        try:
            return action()
        except (DBAPIError, StorageInternalError) as error:
            if time.monotonic() > until or stopped():
                raise
            if not pause:
                print(f"storage    away, tried again for {PATIENCE // 60} minutes: {reason(error)}", flush=True)
            pause = min(5.0, pause + 0.5)
            time.sleep(pause)


def reason(error: BaseException) -> str:
    """What a storage's error says, in one line."""
    cause = error.__cause__ or error
    return redact(" ".join(str(getattr(cause, "orig", cause)).split()))[:200]
