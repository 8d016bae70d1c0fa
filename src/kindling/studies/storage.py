"""Open and lock Optuna's storage, and retry while it is unreachable."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from filelock import FileLock

from src.kindling.config.errors import InputError
from src.kindling.runs.redact import redact

HEARTBEAT = 10  # seconds between two heartbeats
GRACE = 60  # seconds without a heartbeat until a worker on another machine counts as dead
PATIENCE = 600  # seconds until an unreachable storage is an error
T = TypeVar("T")


def load_optuna() -> Any:
    """Import Optuna, which only searches and `--storage` need.

    Raises:
        InputError: when it is not installed.
    """
    try:
        import optuna
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise InputError("optuna: not installed; run: pip install -e '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        r".* is( an)? experimental",  # heartbeats, and plots by matplotlib
        r"Heartbeat of storage is supposed to be used",  # a trial sends its own
        r"The reported value is ignored because this `step`",  # a resumed member reports it again
    ):
        warnings.filterwarnings("ignore", message=message)
    return optuna


@contextmanager
def lock_storage(url: str) -> Iterator[None]:
    """Exclude all other processes that use the storage."""
    if url.startswith("sqlite"):
        with FileLock(url.removeprefix("sqlite:///") + ".lock"):
            yield
        return
    from sqlalchemy import text

    with _engine(url).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('kindling'))"))
        yield
        connection.execute(text("SELECT 1"))  # raises when the lock was lost with its connection


@functools.cache
def _engine(url: str) -> Any:
    from sqlalchemy import create_engine

    return create_engine(url, **engine_options(url))


def engine_options(url: str) -> dict[str, Any]:
    """How many seconds to wait for a locked file, or for a server that does not answer."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 60}}
    return {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}


def retry_unreachable(action: Callable[[], T], stopped: Callable[[], bool] = lambda: False) -> T:
    """Repeat an action until the storage can be reached."""
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
                minutes = PATIENCE // 60
                why = reason(error)
                print(f"storage    unreachable, retrying for {minutes} minutes: {why}", flush=True)
            pause = min(5.0, pause + 0.5)
            time.sleep(pause)


def reason(error: BaseException) -> str:
    """A storage's error in one line."""
    cause = error.__cause__ or error
    return redact(" ".join(str(getattr(cause, "orig", cause)).split()))[:200]
