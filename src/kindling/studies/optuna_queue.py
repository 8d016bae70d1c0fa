"""Take the next member of a study from Optuna's storage: a file, or a PostgreSQL server.

A search needs it, since Optuna draws the parameters from earlier trials. Seeds and folds use it for
machines without a shared disk.
"""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from src.kindling.config.errors import InputError
from src.kindling.runs.redact import redact
from src.kindling.studies.plan import GIVEN_UP, KILLS, Plan, TrialResult, TrialSpec
from src.kindling.studies.storage import (
    GRACE,
    HEARTBEAT,
    engine_options,
    load_optuna,
    lock_storage,
    reason,
    retry_unreachable,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

T = TypeVar("T")


class OptunaTrial:
    """A member that this process trains; it sends heartbeats until its end."""

    def __init__(
        self, queue: OptunaQueue, trial: optuna.Trial, changes: dict[str, Any], lock: BaseFileLock
    ) -> None:
        self.queue, self.trial, self.changes, self.lock = queue, trial, changes, lock
        self.name: str = trial.user_attrs["member"]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self.thread.start()

    def _send_heartbeats(self) -> None:
        storage = self.queue.storage
        while not self.ended.wait(HEARTBEAT):
            with suppress(Exception):  # the storage may be unreachable for a while
                storage.record_heartbeat(self.trial._trial_id)
        storage.remove_session()

    def report(self, score: float, epoch: int) -> None:
        self.queue.retry(lambda: self.trial.report(score, epoch))

    def should_prune(self) -> bool:
        return self.queue.retry(self.trial.should_prune)

    def finish(self, result: TrialResult) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(result.state, TrialState.FAIL)
        facts = {"interrupted": True} if result.state == "waiting" else _facts(result)

        def record() -> None:
            for key, fact in facts.items():
                self.trial.set_user_attr(key, fact)
            value = result.value if state == TrialState.COMPLETE else None
            self.queue.study.tell(self.trial, value, state)

        try:
            self.queue.retry(record)
        except (UpdateFinishedTrialError, ValueError):
            # Either the first attempt succeeded and its answer was lost, or another worker has
            # taken the member since.
            trials = self.queue.retry(lambda: self.queue.study.trials)
            if trials[self.trial.number].state != state:
                print(f"{self.name}  not counted: this worker gave no heartbeat", flush=True)
                return False
        finally:
            self.ended.set()
            self.thread.join()
            self.lock.release()
        return True


class OptunaQueue:
    """The members of a study are trials in Optuna's storage.

    A worker on this machine is dead when its file lock is free. A worker on another machine is dead
    when it has sent no heartbeat for a while.

    Args:
        plan: the study.
        stopped: whether this process was asked to stop; an unreachable storage is then an error.
    """

    study: optuna.Study
    storage: Any

    def __init__(self, plan: Plan, stopped: Callable[[], bool] = lambda: False) -> None:
        self.optuna = load_optuna()
        self.plan, self.stopped = plan, stopped
        self.silent_since: dict[int, float] = {}  # by trial, as this process has seen it
        file = f"sqlite:///{plan.folder / 'study.db'}"
        # The driver that is used.
        server = (plan.storage or "").replace("postgresql://", "postgresql+psycopg://", 1)
        self.url = server or file

    def open(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        from sqlalchemy.exc import SQLAlchemyError

        flag = f"--storage {redact(self.plan.storage or self.url)}"
        if not self.url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise InputError(f"{flag}: expected postgresql://USER@HOST/DATABASE")
        try:
            self._connect()
            with lock_storage(self.url):
                known: dict[str, Any] | None = self.study.user_attrs.get("about")
                if known is None and not self.plan.holds_runs:
                    self.study.set_user_attr("about", settings)
                    known = settings
        except ModuleNotFoundError as error:
            raise InputError(f"{flag}: needs {error.name}; run: pip install -e '.[tune]'") from None
        except (SQLAlchemyError, self.optuna.exceptions.StorageInternalError, OSError) as error:
            raise InputError(f"{flag}: cannot be reached: {reason(error)}") from None
        return known

    def _connect(self) -> None:
        with lock_storage(self.url):  # two processes that create the tables at once collide
            self.storage = self.optuna.storages.RDBStorage(
                self.url, engine_options(self.url), heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
            self.study = self.optuna.create_study(
                storage=self.storage,
                study_name=self.plan.name,
                load_if_exists=True,
                direction="minimize" if self.plan.mode == "min" else "maximize",
                pruner=self.plan.pruner or self.optuna.pruners.NopPruner(),
            )

    def retry(self, action: Callable[[], T]) -> T:
        """Repeat an action until the storage can be reached."""
        return retry_unreachable(action, self.stopped)

    def take(self) -> tuple[OptunaTrial | None, bool]:
        if not hasattr(self, "study"):
            self.retry(self._connect)
        claimed, others = self.retry(self._claim)
        if claimed is None:
            return None, others
        trial, lock = claimed
        changes = dict(trial.user_attrs["changes"])
        if suggest := self.plan.suggest:
            changes |= self.retry(lambda: suggest(trial))
        return OptunaTrial(self, trial, changes, lock), True

    def _claim(self) -> tuple[tuple[optuna.Trial, BaseFileLock] | None, bool]:
        """Claim the next trial; and whether other workers train some."""
        from optuna.trial import TrialState

        with lock_storage(self.url):
            self._fail_dead_trials()
            trials_of = self._trials_by_member()
            states = [trials[-1].state for trials in trials_of.values()]
            if TrialState.WAITING not in states and not self._enqueue_next(trials_of):
                return None, TrialState.RUNNING in states
            if self.plan.sampler:  # draws depend on the seed, the member, and earlier results alone
                waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))[0]
                member = waiting.user_attrs["member"]
                self.study.sampler = self.plan.sampler(zlib.crc32(member.encode()))
            trial = self.study.ask()
            lock = self._file_lock(trial.user_attrs["member"], trial.number)
            lock.acquire()
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("worker", socket.gethostname())
        return (trial, lock), True

    def _file_lock(self, member: str, number: int) -> BaseFileLock:
        folder = self.plan.folder / member
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f".claim-{number}.lock", timeout=0)

    def _enqueue_next(self, trials_of: dict[str, list[FrozenTrial]]) -> bool:
        """Enqueue the first member that is left, if there is one."""
        from optuna.trial import TrialState

        for spec in self.plan.members:
            trials = trials_of.get(spec.name, [])
            if not trials:
                attributes = {"member": spec.name, "changes": spec.changes}
                self.study.enqueue_trial(spec.params, user_attrs=attributes)
                return True
            last = trials[-1]
            if last.state != TrialState.FAIL or "error" in last.user_attrs:
                continue
            kills = sum(not {"error", "interrupted"} & trial.user_attrs.keys() for trial in trials)
            if kills < KILLS:
                self._add_again(last, TrialState.WAITING)
                return True
            self._add_again(last, TrialState.FAIL, error=GIVEN_UP)
            print(f"{spec.name}  FAILED  {GIVEN_UP}", flush=True)
        return False

    def _add_again(self, trial: FrozenTrial, state: Any, **attributes: Any) -> None:
        """Add a trial with the parameters and the reported values of an earlier one."""
        from optuna.trial import create_trial

        known = {key: trial.user_attrs[key] for key in ("member", "changes")}
        again = create_trial(
            state=state,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**known, **attributes},
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
        self.study.add_trial(again)

    def _fail_dead_trials(self) -> None:
        """Mark the running trials of dead workers as failed."""
        from optuna.trial import TrialState

        now, silent = time.monotonic(), self.storage._get_stale_trial_ids(self.study._study_id)
        # Not at first sight: after a machine has slept, its workers need a moment for a heartbeat.
        self.silent_since = {trial: self.silent_since.get(trial, now) for trial in silent}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            silence = now - self.silent_since.get(trial._trial_id, now)
            if silence > 2 * HEARTBEAT or self._died_here(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _died_here(self, trial: FrozenTrial) -> bool:
        """Whether a trial's worker ran on this machine and is dead."""
        worker = trial.user_attrs.get("worker")
        if worker is None:  # killed while it took the trial: only the storage's lock allows that
            return True
        lock = self._file_lock(trial.user_attrs["member"], trial.number)
        if worker != socket.gethostname() or not Path(lock.lock_file).exists():
            return False
        try:
            lock.acquire()
        except Timeout:
            return False
        lock.release()
        return True

    def retry_failed(self) -> None:
        from optuna.trial import TrialState

        def enqueue() -> None:
            with lock_storage(self.url):
                for trials in self._trials_by_member().values():
                    if "error" in trials[-1].user_attrs:
                        self._add_again(trials[-1], TrialState.WAITING)

        self.retry(enqueue)

    def _trials_by_member(self) -> dict[str, list[FrozenTrial]]:
        """The trials of each member; the last one decides its state."""
        order = ("FAIL", "WAITING", "RUNNING", "PRUNED", "COMPLETE")
        trials = self.study.get_trials(deepcopy=False)
        by_member: dict[str, list[FrozenTrial]] = {}
        for trial in sorted(
            trials, key=lambda trial: (order.index(trial.state.name), trial.number)
        ):
            by_member.setdefault(trial.user_attrs["member"], []).append(trial)
        return by_member

    def results(self) -> list[TrialResult]:
        trials_of = self.retry(self._trials_by_member)
        return [_result(spec, trials_of.get(spec.name, [])) for spec in self.plan.members]


def _facts(result: TrialResult) -> dict[str, Any]:
    """A result as user attributes of a trial, which hold its state and value already."""
    facts: dict[str, Any] = {"run": result.run, "drawn": result.changes, "seconds": result.seconds}
    return {**facts, **({"error": result.error} if result.error else {"metrics": result.metrics})}


def _result(spec: TrialSpec, trials: list[FrozenTrial]) -> TrialResult:
    if not trials:
        return TrialResult(spec.name, "waiting", spec.changes)
    trial, attributes = trials[-1], trials[-1].user_attrs
    states = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "running"}
    state = "failed" if "error" in attributes else states.get(trial.state.name, "waiting")
    facts = {
        key: attributes[key] for key in ("metrics", "seconds", "run", "error") if key in attributes
    }
    changes = attributes.get("drawn", spec.changes)
    return TrialResult(spec.name, state, changes, trial.value, **facts)
