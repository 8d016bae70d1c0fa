"""The queue of a search, or of machines without a shared disk: a file or PostgreSQL of Optuna."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from src.kindling.config.errors import InputError
from src.kindling.runs.files import display_path
from src.kindling.runs.redact import redact
from src.kindling.studies.plan import Plan, TrialResult
from src.kindling.studies.trial_queue import PATIENCE, T, TrialQueue

HEARTBEAT = 10  # seconds between two heartbeats
GRACE = 60  # seconds without a heartbeat until a worker on another machine counts as dead
LOCKED = 10  # seconds until a locked study.db is an error; Optuna tries to add a trial five times


def load_optuna() -> Any:
    """Import Optuna, which only searches and `--storage` need; raise InputError without it."""
    try:
        import optuna
    except ImportError:
        raise InputError("optuna: not installed; run: pip install -e '.[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Plots by matplotlib are; and a resumed member reports its last epoch again.
    for message in (r".* is( an)? experimental", r"The reported value is ignored because this"):
        warnings.filterwarnings("ignore", message=message)
    return optuna


class OptunaQueue(TrialQueue):
    """Records are attributes of Optuna's study, and each member of a search is a trial.

    A worker on another machine, which has other file locks, is alive while it sends heartbeats.
    """

    study: Any = None
    storage: Any = None
    engine: Any = None  # of a server, for locks

    def __init__(self, plan: Plan, stopped: Callable[[], bool] = lambda: False) -> None:
        super().__init__(plan)
        self.optuna, self.stopped = load_optuna(), stopped
        self.ended = threading.Event()  # whether the member that is held needs no heartbeat
        self.beats: dict[tuple[Any, ...], float] = {}  # when each was first seen
        server = (plan.storage or "").replace("postgresql://", "postgresql+psycopg://", 1)
        self.url = server or f"sqlite:///{plan.folder / 'study.db'}"

    def open(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        from sqlalchemy.exc import SQLAlchemyError

        flag = display_path(self.plan.folder / "study.db")
        if self.plan.storage:
            flag = f"--storage {redact(self.plan.storage)}"
        if not self.url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise InputError(f"{flag}: expected postgresql://USER@HOST/DATABASE")
        try:
            self.connect()
            return super().open(settings)
        except ModuleNotFoundError as error:
            raise InputError(f"{flag}: needs {error.name}; run: pip install -e '.[tune]'") from None
        except (SQLAlchemyError, self.optuna.exceptions.StorageInternalError, OSError) as error:
            raise InputError(f"{flag}: cannot be reached: {reason(error)}") from None

    def connect(self) -> None:
        """Open Optuna's study, once."""
        from sqlalchemy import create_engine

        if self.study is not None:
            return
        options: dict[str, Any] = {"connect_args": {"timeout": LOCKED}}
        if self.plan.storage:
            options = {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}
            self.engine = create_engine(self.url, **options)
        with self.locked():  # two processes that create the tables at once collide
            self.storage = self.optuna.storages.RDBStorage(self.url, options)
            study = self.optuna.create_study(
                storage=self.storage,
                study_name=self.plan.name,
                load_if_exists=True,
                direction="minimize" if self.plan.mode == "min" else "maximize",
                pruner=self.plan.pruner or self.optuna.pruners.NopPruner(),
            )
            if any("member" in trial.user_attrs for trial in study.trials):
                problem = "begun by an earlier version; begin another study with --name"
                raise InputError(f"{self.plan.name}: {problem}")
            if study.metric_names != [self.plan.monitor]:
                study.set_metric_names([self.plan.monitor])
        self.study = study

    def retry(self, action: Callable[[], T]) -> T:
        """Repeat an action until the storage can be reached."""
        from sqlalchemy.exc import DBAPIError

        until, pause = time.monotonic() + PATIENCE, 0.0
        while True:
            try:
                self.connect()
                return action()
            except (DBAPIError, self.optuna.exceptions.StorageInternalError) as error:
                if time.monotonic() > until or self.stopped():
                    raise
                if not pause:
                    how = f"unreachable, retrying for {PATIENCE // 60} minutes"
                    print(f"storage    {how}: {reason(error)}", flush=True)
            pause = min(5.0, pause + 0.5)
            time.sleep(pause)

    def _send_heartbeats(self, name: str, ended: threading.Event) -> None:
        beat = 0
        while not ended.wait(HEARTBEAT):
            beat += 1
            with suppress(Exception):  # the storage may be unreachable for a while
                self.study.set_user_attr(f"beat {name}", beat)
        self.storage.remove_session()

    def release(self) -> None:
        self.ended.set()
        super().release()

    def start(self, result: TrialResult) -> TrialResult:
        self.ended = threading.Event()
        arguments = (result.name, self.ended)
        threading.Thread(target=self._send_heartbeats, args=arguments, daemon=True).start()
        if not self.plan.suggest:
            return result
        if self.plan.sampler:  # draws depend on the seed, the member, and earlier results alone
            self.study.sampler = self.plan.sampler(result.name)
        known = None
        if result.trial is not None:
            known = self.study.get_trials(deepcopy=False)[result.trial]
        if known and not known.state.is_finished():  # it was interrupted
            self.trial = self.optuna.Trial(self.study, known._trial_id)
        else:
            if known:  # it failed, and is tried again
                self.study.enqueue_trial(known.params)
            self.trial = self.study.ask()
        changes = result.changes | self.plan.suggest(self.trial)
        return replace(result, changes=changes, trial=self.trial.number)

    def lock_member(self, result: TrialResult) -> bool:
        if result.state == "running" and result.worker != self.place:
            beat = (result.name, result.worker, self.study.user_attrs.get(f"beat {result.name}"))
            now = time.monotonic()  # two machines' clocks differ
            if now - self.beats.setdefault(beat, now) <= GRACE:
                return False
        return super().lock_member(result)

    @contextmanager
    def locked(self) -> Iterator[None]:
        if self.engine is None:
            with super().locked():
                yield
            return
        from sqlalchemy import text

        with self.engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('kindling'))"))
            yield
            connection.execute(text("SELECT 1"))  # raises when the lock was lost

    def records(self) -> dict[str, Any]:
        return dict(self.study.user_attrs)

    def write(self, name: str, record: dict[str, Any]) -> None:
        states = self.optuna.trial.TrialState
        ended = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        state = ended.get(record.get("state", ""))
        if state and record["trial"] is not None:
            value = record["value"] if state == states.COMPLETE else None
            self.study.tell(record["trial"], value, state, skip_if_finished=True)
        self.study.set_user_attr(name, record)


def make_queue(plan: Plan, stopped: Callable[[], bool] = lambda: False) -> TrialQueue:
    """Choose the queue of a study; `stopped` returns whether this process was asked to stop."""
    if plan.suggest or plan.storage:
        return OptunaQueue(plan, stopped)
    return TrialQueue(plan)


def reason(error: BaseException) -> str:
    """A storage's error in one line."""
    cause = error.__cause__ or error
    return redact(" ".join(str(getattr(cause, "orig", cause)).split()))[:200]
