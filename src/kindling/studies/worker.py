"""A study's workers: each takes one member after the other and trains it, until none is left (see study.py)."""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from multiprocessing.connection import wait
from pathlib import Path
from signal import SIGTERM, Signals
from typing import TYPE_CHECKING, Any, TypeVar

from src.kindling.config.command import run_command
from src.kindling.config.errors import InputError
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.redact import redact
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.studies.plan import ENDED, Plan, histories, outcomes
from src.kindling.studies.storage import HEARTBEAT, connect, load_optuna, locked, patiently
from src.kindling.training.distributed import distributed

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LOOK = 0.5  # seconds between two looks at what other workers do
KILLS = 3  # so often the worker of a member may be killed: with more, the member is likely to be the reason
T = TypeVar("T")


class Worker:
    """Runs members of a plan in this process.

    Raises:
        Interrupted: from `work`, when a signal stopped it; the member under way was saved, and is left for later.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.interrupts = plan, Interrupts()
        # Within one container, processes have numbers of their own.
        processes = Path("/proc/self/ns/pid")
        self.me = [f"{socket.gethostname()} {processes.readlink() if processes.exists() else ''}", os.getpid()]
        self.silent: dict[int, float] = {}  # since when a trial's worker was seen to give no sign of life

    def work(self) -> None:
        """Run what is left, and wait for the members of other workers: one of them may be killed."""
        with self.interrupts:
            self.interrupts.watched = True  # outside of a training, a signal waits until the storage is told
            self.study = self.patiently(self._open)
            pause = LOOK
            try:
                while self.interrupts.received is None:
                    trial, others = self.patiently(self.claim)
                    if trial is not None:
                        self.train(trial)
                        pause = LOOK
                        if not gc.get_freeze_count():  # what the imports left: to walk it takes each training 0.3 s
                            gc.collect()
                            gc.freeze()
                    elif not others:
                        return
                    else:
                        time.sleep(pause)
                        pause = min(2.0, 1.5 * pause)  # those who train need the cores more
            finally:
                gc.unfreeze()
            self.interrupts.stop()

    def _open(self) -> optuna.Study:
        library = load_optuna()
        with locked(self.plan.url):
            self.storage = connect(self.plan.url)
        study: optuna.Study = library.load_study(study_name=self.plan.name, storage=self.storage,
                                                pruner=self.plan.pruner or library.pruners.NopPruner())  # fmt: skip
        return study

    def patiently(self, action: Callable[[], T]) -> T:
        """Until a signal comes."""
        return patiently(action, lambda: self.interrupts.received is not None)

    # -----------------------------------------------------------------------------------------------------------
    # Taking a member

    def claim(self) -> tuple[optuna.Trial | None, bool]:
        """A member that is left, or None; and whether other workers are at some."""
        from optuna.trial import TrialState as State

        with locked(self.plan.url):
            self._bury()
            trials_of = histories(self.study)
            states = [trials[-1].state for trials in trials_of.values()]
            if State.WAITING not in states and not self._queue_next(trials_of):
                return None, State.RUNNING in states
            if self.plan.sampler:  # what is drawn is a function of the seed, the member, and what has ended before
                queued = self.study.get_trials(deepcopy=False, states=(State.WAITING,))[0]
                self.study.sampler = self.plan.sampler(zlib.crc32(queued.user_attrs["member"].encode()))
            trial = self.study.ask()
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("worker", self.me)
        return trial, True

    def _queue_next(self, trials_of: dict[str, list[FrozenTrial]]) -> bool:
        """Queue the first member that is left, if there is one."""
        from optuna.trial import TrialState as State
        from optuna.trial import create_trial

        for member in self.plan.members:
            trials = trials_of.get(member.name, [])
            told = {"member": member.name, "changes": member.changes}
            if not trials:
                self.study.enqueue_trial(member.params, user_attrs=told)
                return True
            last = trials[-1]
            if last.state != State.FAIL or ("error" in last.user_attrs and last.number not in self.plan.again):
                continue
            kills = sum(not {"error", "interrupted"} & trial.user_attrs.keys() for trial in trials)
            if kills >= KILLS and last.number not in self.plan.again:
                error = f"its worker was killed {kills} times; it may need more memory than there is"
                self.study.add_trial(create_trial(state=State.FAIL, user_attrs={**told, "error": error}))
                print(f"{member.name}  FAILED  {error}", flush=True)
                continue
            self.study.add_trial(create_trial(
                state=State.WAITING, params=last.params, distributions=last.distributions, user_attrs=told,
                system_attrs=last.system_attrs, intermediate_values=last.intermediate_values,
            ))  # fmt: skip
            return True
        return False

    def _bury(self) -> None:
        """Mark the trials whose workers are dead as failed: those of this machine by their process, others in time."""
        from optuna.trial import TrialState as State

        now, silent = time.monotonic(), self.storage._get_stale_trial_ids(self.study._study_id)
        # Not at first sight: after a machine has slept, its workers need a moment for a sign of life.
        self.silent = {trial: self.silent.get(trial, now) for trial in silent}
        for trial in self.study.get_trials(deepcopy=False, states=(State.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            # Without a worker, its worker was killed as it took it; and this one has none when it takes one.
            dead = worker in (None, self.me) or (worker[0] == self.me[0] and not _is_alive(worker[1]))
            if dead or now - self.silent.get(trial._trial_id, now) > 2 * HEARTBEAT:
                self.study.tell(trial.number, state=State.FAIL)

    # -----------------------------------------------------------------------------------------------------------
    # Training it

    def train(self, trial: optuna.Trial) -> None:
        """Train a member, and tell the storage and the terminal what became of it."""
        started, told = time.perf_counter(), trial.user_attrs
        run = Run(self.plan.folder / told["member"])
        run.path.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"run": shown(run.path), "drawn": told["changes"]}
        value, state = None, "FAIL"
        with self._signs_of_life(trial), (run.path / "output.txt").open("a", encoding="utf-8") as output:
            try:
                if self.plan.suggest:
                    facts["drawn"] = {**told["changes"], **self.patiently(functools.partial(self.plan.suggest, trial))}
                with redirect_stdout(output):
                    value, facts["metrics"], pruned = self._fit(run, facts["drawn"], trial)
                    if self.plan.after:
                        self.plan.after(run)
                state = "PRUNED" if pruned else "COMPLETE"
            except Interrupted:
                self._finish(trial, "FAIL", interrupted=True)
                raise
            except Exception as error:
                traceback.print_exc(file=output)
                lines = error.lines if isinstance(error, InputError) else [f"{type(error).__name__}: {error}"]
                facts["error"] = redact("\n".join(lines))
        if self._finish(trial, state, value, seconds=round(time.perf_counter() - started, 3), **facts):
            self._tell(told["member"])

    def _fit(self, run: Run, changes: dict[str, Any], trial: optuna.Trial) -> tuple[float, dict[str, float], bool]:
        """The value, the final numbers, and whether it was pruned."""
        from src.kindling.analysis.plots import Plots
        from src.kindling.config import instantiate
        from src.kindling.training.fit import fit

        config = self.plan.configure(changes)
        instantiate.check(config)
        if self.interrupts.received is not None:  # since this member was taken
            self.interrupts.stop()
        meta = read_json(run.path / "meta.json") if (run.path / "meta.json").exists() else {}
        if meta.get("exit") == "finished":  # and its worker was killed after that
            metrics, score, pruned = run.metrics, None, self.patiently(trial.should_prune)
        elif distributed(config.values):
            self._train_apart(run, changes)
            metrics, score, pruned = run.metrics, None, False
        else:
            pruning = _pruning(trial, self)
            result = fit(
                config,
                run,
                self.plan.stages,
                resume=bool(meta),
                plots=Plots(run) if self.plan.pictures else None,
                callbacks=[pruning],
            )
            metrics, score, pruned = result.metrics, result.score, pruning.pruned
        value = metrics.get(self.plan.monitor, score)
        if value is None or value != value:
            raise InputError(f"{self.plan.monitor}: was never a finite number")
        return value, metrics, pruned

    def _train_apart(self, run: Run, changes: dict[str, Any]) -> None:
        """A member that is itself distributed: Lightning calls its command again for each process."""
        words = [*self.plan.words, *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
        command = [sys.executable, "-m", "src.train", self.plan.config, *words, "--member", str(run.path),
                   *([] if self.plan.pictures else ["--no-pictures"]),
                   *([] if "test" in self.plan.stages else ["--no-test"])]  # fmt: skip
        path = run.path / "output.txt"
        with path.open("a") as output:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK)
                if self.interrupts.received is not None:
                    child.terminate()
        if self.interrupts.received is not None:
            self.interrupts.stop()
        if child.returncode:
            last = path.read_text(encoding="utf-8").strip().splitlines()[-1]
            raise InputError(f"src.train ended with status {child.returncode}: {last}")

    @contextmanager
    def _signs_of_life(self, trial: optuna.Trial) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(Exception):  # the storage may be away for a while
                    self.storage.record_heartbeat(trial._trial_id)
            self.storage.remove_session()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _finish(self, trial: optuna.Trial, state: str, value: float | None = None, **facts: Any) -> bool:
        """Tell the storage how a trial ended; whether it counts."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        def tell() -> None:
            for key, fact in facts.items():
                trial.set_user_attr(key, fact)
            self.study.tell(trial, value if state == "COMPLETE" else None, TrialState[state])

        try:
            self.patiently(tell)
        except (UpdateFinishedTrialError, ValueError):
            # Either the answer to the first attempt was lost, or this worker was taken for dead.
            if self.patiently(lambda: self.study.trials[trial.number].state.name) != state:
                print(f"{trial.user_attrs['member']}  not counted: this worker was taken for dead", flush=True)
                return False
        return True

    def _tell(self, name: str) -> None:
        """One line on a member that has ended."""
        everyone = self.patiently(lambda: outcomes(self.plan, self.study))
        ended = [one for one in everyone if one.state in ENDED]
        this = next((one for one in everyone if one.name == name), None)
        if this is None:  # a member of the study, but not of this command
            return
        values = [one.value for one in ended if one.state == "finished" and one.value is not None]
        score = f"{self.plan.monitor} {this.value:.4f}" if this.value is not None else ""
        best = this.state == "finished" and this.value == (min if self.plan.mode == "min" else max)(values)
        told = {"failed": f"FAILED  {this.error}", "pruned": f"{score}  pruned"}.get(
            this.state, score + "  best" * best
        )
        changes = "  ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in this.changes.items())
        print(f"{len(ended)}/{len(everyone)}  {name}  {told}  {changes}  ({this.seconds:.1f} s)", flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pruning(trial: optuna.Trial, worker: Worker) -> Any:
    """A callback that reports what is monitored after each epoch, and ends a training that the pruner gives up."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    class Pruning(Callback):
        pruned = False

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            score = trainer.callback_metrics.get(worker.plan.monitor)
            if worker.plan.pruner is None or score is None:
                return
            worker.patiently(lambda: trial.report(float(score), trainer.current_epoch + 1))
            self.pruned = worker.patiently(trial.should_prune)
            trainer.should_stop = trainer.should_stop or self.pruned

    return Pruning()


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        return True  # there, the question would end it; its signs of life tell
    with suppress(OSError):  # on Linux: one that was killed may have yet to be missed by its parent
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


# ---------------------------------------------------------------------------------------------------------------
# Several at a time


def work_in_processes(plan: Plan, workers: int) -> None:
    """Run a plan's members in several processes, each with its share of the cores and a GPU of its own where there are.

    Raises:
        InputError: when all were killed or ended with an error.
        Interrupted: when a signal stopped them.
    """
    import torch

    every = ",".join(map(str, range(torch.cuda.device_count())))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if gpu and every]
    context = multiprocessing.get_context("spawn")  # the fork of a process with threads may hang

    def start(index: int) -> Any:
        process = context.Process(target=_work, args=(plan, index, workers, gpus[index % len(gpus)] if gpus else None))
        process.start()
        return process

    spare, stopping, ended = KILLS * workers, False, 0
    with Interrupts() as interrupts:
        interrupts.watched = True
        processes = {index: start(index) for index in range(workers)}
        while processes:
            wait([process.sentinel for process in processes.values()], timeout=LOOK)
            for index, process in list(processes.items()):
                if interrupts.received is not None and not stopping:
                    process.terminate()  # by SIGTERM: it ends its step and saves
                if process.is_alive():
                    continue
                del processes[index]
                ended += process.exitcode == 0
                if process.exitcode < 0 and spare and interrupts.received is None:
                    spare -= 1
                    name = Signals(-process.exitcode).name
                    print(f"worker     {process.pid} was ended by {name}; another takes its place", flush=True)
                    processes[index] = start(index)
            stopping = interrupts.received is not None
        if stopping:
            interrupts.stop()
    if not ended:
        raise InputError(f"--workers: not one of {workers} came to the end; what each said stands above")


def _work(plan: Plan, index: int, workers: int, gpu: str | None) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[index::workers])
    sys.orig_argv = list(plan.command)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    run_command(lambda _: Worker(plan).work())
