"""The queue from which processes, also on several machines, take the members of a study."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from src.kindling.config.errors import InputError
from src.kindling.runs.files import display_path, read_json, require_folder, write_json
from src.kindling.studies.plan import ENDED, Plan, TrialResult

KILLS = 3  # a member is given up when its worker was killed so often
GIVEN_UP = f"its worker was killed {KILLS} times; it may need more memory than there is"
PATIENCE = 600  # seconds until a lock that is held, or an unreachable storage, is an error
T = TypeVar("T")


@contextmanager
def announce(what: str, seconds: float = 60.0) -> Iterator[None]:
    """Print `what` if the block takes longer than so many seconds."""
    options = {"file": sys.stdout, "flush": True}  # a training has another sys.stdout
    timer = threading.Timer(seconds, print, [f"waiting    {what}"], options)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class TrialQueue:
    """Members are directories: a file lock claims one, and its trial.json is its record.

    A queue holds one member at a time. The operating system frees the lock of a killed worker: its
    member is taken again, and resumes.
    """

    lock: BaseFileLock | None = None  # of the member that is held
    trial: Any = None  # Optuna's for this member, in a search

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.place = f"{socket.gethostname()}:{plan.folder.absolute()}"

    def open(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the settings of the study; None if it has runs and no settings.

        A new study takes the given ones.
        """
        with self.locked():
            known: dict[str, Any] | None = self.records().get("about")
            if known is None and not any(self.plan.folder.glob("*/meta.json")):
                self.write("about", settings)
                known = settings
        return known

    def take(self) -> TrialResult | None:
        """Take a member that is left; None if all have ended, or other workers train the others."""
        return self.retry(self._take)

    def _take(self) -> TrialResult | None:
        with self.locked():
            for result in self._results():
                if result.state in ENDED or not self.lock_member(result):
                    continue
                kills = result.kills + (result.state == "running")  # it released no lock
                result = replace(result, state="running", kills=kills, worker=self.place)
                if kills < KILLS:
                    result = self.start(result)
                    self.write(result.name, asdict(result))
                    return result
                self.write(result.name, asdict(replace(result, state="failed", error=GIVEN_UP)))
                print(f"{result.name}  FAILED  {GIVEN_UP}", flush=True)
        return None

    def finish(self, result: TrialResult) -> bool:
        """Record the result and release the member; return whether the result counts."""

        def record() -> bool:
            require_folder(self.plan.folder / result.name)  # it holds the record
            with self.locked():
                counts: bool = self.records()[result.name]["worker"] == self.place
                if counts:
                    self.write(result.name, asdict(result))
            return counts

        try:
            counts = self.retry(record)
        finally:
            self.release()
        if not counts:
            print(f"{result.name}  not counted: this worker gave no heartbeat", flush=True)
        return counts

    def retry_failed(self) -> None:
        """Put the failed members back into the queue."""

        def enqueue() -> None:
            with self.locked():
                for result in self._results():
                    if result.state == "failed":
                        again = replace(result, state="waiting", error="", kills=0)
                        self.write(result.name, asdict(again))

        self.retry(enqueue)

    def results(self) -> list[TrialResult]:
        """The result of each member so far."""
        return self.retry(self._results)

    def _results(self) -> list[TrialResult]:
        records = self.records()
        return [
            TrialResult(**records.get(name, {"name": name, "state": "waiting", "changes": changes}))
            for name, changes in self.plan.members.items()
        ]

    def lock_member(self, result: TrialResult) -> bool:
        """Lock a member, and free the one before; False when another worker has locked it."""
        self.release()
        folder = self.plan.folder / result.name
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".claim.lock", timeout=0)
        with suppress(Timeout):
            self.lock.acquire()
        return self.lock.is_locked

    # What OptunaQueue does in another way.

    def start(self, result: TrialResult) -> TrialResult:
        return result

    def release(self) -> None:
        if self.lock:
            self.lock.release()

    def retry(self, action: Callable[[], T]) -> T:
        return action()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other processes of the study; raise InputError if one does not let go."""
        path = self.plan.folder / ".study.lock"
        lock, name = FileLock(path, timeout=PATIENCE), display_path(path)
        try:
            with announce(f"for {name}, which another process holds", seconds=10):
                lock.acquire()
        except Timeout:
            problem = f"held by another process for {PATIENCE // 60} minutes"
            raise InputError(f"{name}: {problem}; stop it (fuser {name})") from None
        try:
            yield
        finally:
            lock.release()

    def records(self) -> dict[str, Any]:
        """The record of each member that was begun, and the study's settings as `about`."""
        paths = {name: self.plan.folder / name / "trial.json" for name in self.plan.members}
        paths["about"] = self.plan.folder / "study.json"
        records = {name: read_json(path) for name, path in paths.items() if path.exists()}
        return records | {"about": records.get("about", {}).get("settings")}

    def write(self, name: str, record: dict[str, Any]) -> None:
        if name == "about":
            write_json(self.plan.folder / "study.json", {"settings": record})
        else:
            write_json(self.plan.folder / name / "trial.json", record)
