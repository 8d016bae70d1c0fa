"""Train the members of a study one after the other, in this process or in several."""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from signal import SIGTERM, Signals
from typing import Any

from src.kindling.config import instantiate
from src.kindling.config.command import run_command
from src.kindling.config.compose import record_path
from src.kindling.config.errors import InputError, join_names
from src.kindling.runs.files import display_path
from src.kindling.runs.metric_names import canonical_name
from src.kindling.runs.redact import redact
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.studies.optuna_queue import make_queue
from src.kindling.studies.plan import ENDED, Plan, TrialResult, to_words
from src.kindling.studies.trial_queue import KILLS, announce
from src.kindling.training.distributed import distributed

POLL = 0.5  # seconds between two looks at other processes


class Worker:
    """Trains members of a plan in this process."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.signals = plan, Interrupts()
        self.queue = make_queue(plan, stopped=lambda: self.signals.received is not None)

    def work(self) -> None:
        """Train the members that are left, also those of other workers that are killed."""
        with self.signals:
            self.signals.watched = True  # outside of a training, a signal waits for the queue
            while result := self._take():
                self.train(result)
            if self.signals.received is not None:
                self.signals.stop()

    def _take(self) -> TrialResult | None:
        """Take a member, waiting for those of other workers; None at the end, or on a signal."""
        pause = POLL
        with ExitStack() as waiting:
            while self.signals.received is None:
                taken = self.queue.take()
                left = [one.name for one in self.queue.results() if one.state not in ENDED]
                if taken or not left:
                    return taken
                if pause == POLL:
                    doing = f"for {join_names(left)}, which other processes of this study train"
                    waiting.enter_context(announce(doing))
                time.sleep(pause)
                pause = min(2.0, 1.5 * pause)  # the others need the cores more
        return None

    def train(self, result: TrialResult) -> None:
        """Train the member that the queue holds, record its result, and print it."""
        started = time.perf_counter()
        run = Run(self.plan.folder / result.name)
        result = replace(result, state="waiting", run=record_path(run.path))
        path = run.path / "output.txt"
        doing = f"for {result.name} to train, see {display_path(path)}"
        with path.open("a", encoding="utf-8") as output, announce(doing):
            try:
                with redirect_stdout(output):
                    result = self._fit(run, result)
            except Interrupted:
                self.queue.finish(result)
                raise
            except Exception as error:
                traceback.print_exc(file=output)
                text = f"{type(error).__name__}: {error}"
                lines = error.lines if isinstance(error, InputError) else [text]
                result = replace(result, state="failed", error=redact("\n".join(lines)))
        result = replace(result, seconds=round(time.perf_counter() - started, 3))
        if self.queue.finish(result):
            self._print_progress(result)

    def _fit(self, run: Run, result: TrialResult) -> TrialResult:
        """Train a member, and return its result with state, value and metrics."""
        from lightning.pytorch.callbacks import LambdaCallback

        from src.kindling.analysis.plots import Plots
        from src.kindling.analysis.predictions import predict
        from src.kindling.training.fit import fit
        from src.kindling.training.trained_run import TrainedRun

        config = self.plan.configure(result.changes)
        instantiate.check(config)
        if self.signals.received is not None:  # since the member was taken
            self.signals.stop()
        meta, score = run.read("meta.json"), None
        if meta.get("exit") == "finished":
            pass  # its worker was killed after the training
        elif distributed(config.values):
            self._train_in_subprocess(run, result.changes)
            if self.queue.trial:
                self._report_epochs(run)
        else:
            plots = Plots(run) if self.plan.plots else None
            callbacks = [LambdaCallback(on_train_epoch_end=self._report_epoch)]
            resume, stages = bool(meta), self.plan.stages
            score = fit(config, run, stages, resume=resume, plots=plots, callbacks=callbacks).score
        value = run.metrics.get(self.plan.monitor, score)
        if value is None or value != value:
            raise InputError(f"{self.plan.monitor}: was never a finite number")
        if "data.fold" in result.changes:
            trained = TrainedRun(run.path)
            predictions = predict(trained.task.to(trained.device), trained.data(), "test")
            predictions.save(run.path / "predictions" / "test.npz")
        state = "pruned" if self._is_pruned() else "finished"
        return replace(result, state=state, value=value, metrics=run.metrics)

    def _report_epoch(self, trainer: Any, task: Any) -> None:
        """Report the monitored metric after an epoch, and stop a training that is pruned."""
        trial, score = self.queue.trial, trainer.callback_metrics.get(self.plan.monitor)
        if trial and score is not None:
            epoch = trainer.current_epoch + 1
            self.queue.retry(lambda: trial.report(float(score), epoch))
            trainer.should_stop = trainer.should_stop or self._is_pruned()

    def _is_pruned(self) -> bool:
        trial = self.plan.pruner and self.queue.trial
        return bool(trial) and self.queue.retry(trial.should_prune)

    def _report_epochs(self, run: Run) -> None:
        """Report the monitored metric of each epoch of a distributed member to its trial."""
        from src.kindling.analysis.history import read_metrics

        monitor, trial = canonical_name(self.plan.monitor), self.queue.trial
        values = read_metrics(run.path).groupby("epoch")[monitor].last().dropna()
        for epoch, value in values.items():
            self.queue.retry(functools.partial(trial.report, value, int(epoch)))

    def _train_in_subprocess(self, run: Run, changes: dict[str, Any]) -> None:
        """Train a distributed member: Lightning repeats its command for each process."""
        command = [sys.executable, "-m", "src.train", self.plan.config, *self.plan.overrides]
        command += [*to_words(changes), "--member", str(run.path)]
        command += [] if self.plan.plots else ["--no-plots"]
        command += [] if "test" in self.plan.stages else ["--no-test"]
        path = run.path / "output.txt"
        with path.open("a") as output:
            # It ends when this process does, since its standard input is closed then.
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL)
                if self.signals.received is not None:
                    child.terminate()
        if self.signals.received is not None:
            self.signals.stop()
        if child.returncode:
            last = path.read_text(encoding="utf-8").strip().splitlines()[-1]
            raise InputError(f"src.train ended with status {child.returncode}: {last}")

    def _print_progress(self, result: TrialResult) -> None:
        """Print one line about a member that has ended."""
        results = self.queue.results()
        ended = sum(one.state in ENDED for one in results)
        finished = [one for one in results if one.state == "finished"]
        text = f"{self.plan.monitor} {result.value:.4f}" if result.value is not None else ""
        if result.state == "failed":
            text = f"FAILED  {result.error}"
        elif result.state == "pruned":
            text += "  pruned"
        elif result.value == self.plan.best(finished).value:
            text += "  best"
        for key, value in result.changes.items():
            short = f"{value:.4g}" if isinstance(value, float) else value
            text += f"  {key.rpartition('.')[2]}={short}"
        number = f"{ended}/{len(results)}"
        print(f"{number}  {result.name}  {text}  ({result.seconds:.1f} s)", flush=True)


def work_in_processes(plan: Plan, workers: int) -> None:
    """Run workers in processes with a share of the cores and GPUs; replace those that are killed.

    Raises InputError when all were killed or failed, and Interrupted when a signal stopped them.
    """
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    gpus = given.split(",") if count else [""]
    context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
    spare, completed, terminated = KILLS * workers, 0, False

    def start(index: int) -> Any:
        arguments = (plan, index, workers, gpus[index % len(gpus)])
        process = context.Process(target=_run_worker, args=arguments)
        process.start()
        return process

    with Interrupts() as signals:
        signals.watched = True
        processes = {start(index): index for index in range(workers)}
        while processes:
            wait([process.sentinel for process in processes], timeout=POLL)
            if signals.received is not None and not terminated:
                terminated = True
                for process in processes:
                    process.terminate()  # by SIGTERM: it ends its step and saves
            for process in [process for process in processes if not process.is_alive()]:
                index = processes.pop(process)
                completed += process.exitcode == 0
                if process.exitcode < 0 and spare and not terminated:
                    spare -= 1
                    name = Signals(-process.exitcode).name
                    how = f"was ended by {name}; starting another"
                    print(f"worker     {process.pid} {how}", flush=True)
                    processes[start(index)] = index
        if terminated:
            signals.stop()
    if not completed:
        raise InputError(f"--workers: all {workers} failed; see their messages above")


def _run_worker(plan: Plan, index: int, workers: int, gpu: str) -> None:
    # Before torch is imported, and therefore this module imports it in functions.
    if gpu:
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
