"""Take the next member of a study: from directories on a shared disk, or from Optuna's storage.

Several processes, on any number of machines, work on one study. Each takes one member after the
other. A member whose worker was killed is taken again and resumes from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from src.kindling.runs.files import read_json, write_json
from src.kindling.studies.optuna_queue import OptunaQueue, OptunaTrial
from src.kindling.studies.plan import ENDED, GIVEN_UP, KILLS, Plan, TrialResult, TrialSpec


@dataclass
class DirectoryTrial:
    """A member whose directory this process has locked."""

    name: str
    changes: dict[str, Any]
    path: Path
    kills: int
    lock: BaseFileLock

    def report(self, score: float, epoch: int) -> None:
        pass

    def should_prune(self) -> bool:
        return False

    def finish(self, result: TrialResult) -> bool:
        """Record the result and release the member; return whether the result counts."""
        write_json(self.path, asdict(replace(result, kills=self.kills)))
        self.lock.release()
        return True


class DirectoryQueue:
    """Members are directories: a file lock claims one, and its trial.json records its state.

    The lock of a killed worker is free, on the same machine and on others that share the disk.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def open(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Open the study and return its settings; a new study gets the given ones.

        None: the folder holds runs, and their settings are unknown.
        """
        path = self.plan.folder / "study.json"
        with FileLock(self.plan.folder / ".study.lock"):
            known: dict[str, Any] | None = None
            if path.exists():
                known = read_json(path).get("settings")
            if known is None and not self.plan.holds_runs:
                write_json(path, {"settings": settings})
                known = settings
        return known

    def take(self) -> tuple[DirectoryTrial | None, bool]:
        """Take a member that is left, or None; and return whether other workers train some."""
        others = False
        for spec in self.plan.members:
            if self._read(spec).state in ENDED:
                continue
            lock = self._lock(spec)
            try:
                lock.acquire()
            except Timeout:
                others = True
                continue
            if trial := self._start(spec, lock):
                return trial, True
            lock.release()
        return None, others

    def _start(self, spec: TrialSpec, lock: BaseFileLock) -> DirectoryTrial | None:
        """Start a member that this process has locked, unless it has ended meanwhile."""
        result, path = self._read(spec), self._path(spec)
        if result.state in ENDED:
            return None
        kills = result.kills + (result.state == "running")  # its worker released no lock
        if kills > result.kills and kills >= KILLS:
            failed = replace(result, state="failed", error=GIVEN_UP, kills=kills)
            write_json(path, asdict(failed))
            print(f"{spec.name}  FAILED  {GIVEN_UP}", flush=True)
            return None
        write_json(path, asdict(TrialResult(spec.name, "running", spec.changes, kills=kills)))
        return DirectoryTrial(spec.name, spec.changes, path, kills, lock)

    def retry_failed(self) -> None:
        """Put the failed members back into the queue."""
        for spec in self.plan.members:
            with suppress(Timeout), self._lock(spec):  # held: it is being trained again already
                if self._read(spec).state == "failed":
                    write_json(self._path(spec), asdict(self._waiting(spec)))

    def results(self) -> list[TrialResult]:
        """The result of each member so far."""
        return [self._read(spec) for spec in self.plan.members]

    def _path(self, spec: TrialSpec) -> Path:
        return self.plan.folder / spec.name / "trial.json"

    def _lock(self, spec: TrialSpec) -> BaseFileLock:
        folder = self.plan.folder / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".claim.lock", timeout=0)

    def _read(self, spec: TrialSpec) -> TrialResult:
        path = self._path(spec)
        return TrialResult(**read_json(path)) if path.exists() else self._waiting(spec)

    def _waiting(self, spec: TrialSpec) -> TrialResult:
        return TrialResult(spec.name, "waiting", spec.changes)


# The two ways to share a study, with the same methods.
Trial = DirectoryTrial | OptunaTrial
TrialQueue = DirectoryQueue | OptunaQueue


def make_queue(plan: Plan, stopped: Callable[[], bool] = lambda: False) -> TrialQueue:
    """Choose the queue of a study.

    Args:
        plan: the study.
        stopped: whether this process was asked to stop; a queue then stops its own retries.
    """
    # Studies of seeds and folds that an earlier version began have a study.db.
    if plan.suggest or plan.pruner or plan.storage or (plan.folder / "study.db").exists():
        return OptunaQueue(plan, stopped)
    return DirectoryQueue(plan)
