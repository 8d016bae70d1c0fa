"""Start or resume the training that a command line asks for, and print its result."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.command import split_words
from src.kindling.config.compose import Config, compose
from src.kindling.config.errors import InputError, TrainingError, format_count
from src.kindling.config.short_traceback import format_short
from src.kindling.runs import run as run_module
from src.kindling.runs.files import display_path, read_json
from src.kindling.runs.redact import redact
from src.kindling.runs.run import Run, find_run
from src.kindling.runs.signals import Interrupted
from src.kindling.training.distributed import broadcast, rank
from src.kindling.training.slurm import requeue, requeued

if TYPE_CHECKING:
    from src.kindling.data.samples import Stage
    from src.kindling.training.fit import Result
    from src.kindling.training.transfer import Match


def launch(flags: Namespace, plots: Callable[[Run], Any] | None) -> Result:
    """Train as the flags of `src.train` say.

    Args:
        flags: `words`, `init`, `partial`, `by_order`, `resume`, `override`, `member`, `no_test`.
        plots: makes what draws a run's plots; None leaves them out.
    """
    member = Run(Path(flags.member)) if flags.member else None
    begun = member.path if member and (member.path / "meta.json").exists() else requeued()
    if flags.resume is None and begun:
        flags.resume, flags.words = str(begun), []
    resumed = None if flags.resume is None else find_run(flags.resume, flags.trust)
    config = _resumed_config(resumed, flags) if resumed else compose(*split_words(flags.words))
    if flags.override and not resumed:
        raise InputError("--override: belongs to --resume RUN; leave it out")
    if (flags.partial or flags.by_order) and not flags.init:
        raise InputError("--partial, --by-order: belong to --init RUN; leave them out")

    from src.kindling.config import instantiate
    from src.kindling.training.fit import fit
    from src.kindling.training.trained_run import load_run

    init = load_run(flags.init, flags.trust) if flags.init else None
    instantiate.check(config)
    if rank(config.values):  # the first process of a distributed training prints for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if member:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    run = resumed or member
    if run is None:
        run = Run(Path(broadcast(config.values, lambda: str(Run.claim_for(config).path))))
    gc.collect()
    gc.freeze()  # what the imports left need not be traversed by each collection
    stages: tuple[Stage, ...] = ("val",) if flags.no_test else ("val", "test")
    drawing = plots(run) if plots else None
    try:
        match: Match = "partial" if flags.partial else "name"
        if flags.by_order:
            match = "order"
        resume = resumed is not None
        return fit(config, run, stages, init, resume, flags.override, drawing, match=match)
    except BaseException as error:
        sys.excepthook = print_traceback
        keep = member is not None or rank(config.values) > 0
        _after_failure(run, error, resumed is None, keep)
        if isinstance(error, SystemExit) and not isinstance(error, Interrupted):
            problem = "sys.exit() was called during the training"
            raise TrainingError(f"task, data or callbacks: {problem}; raise an error") from error
        raise


def print_traceback(kind: Any, error: Any, trace: Any) -> None:
    """Print an uncaught error without secrets: the output may be kept as a log."""
    print(redact(format_short(kind, error, trace)), end="", file=sys.stderr)


def _resumed_config(run: Run, flags: Namespace) -> Config:
    """The config that a run is resumed with: its own, changed by the overrides."""
    from src.kindling.training.resume import resume_config

    path, words = display_path(run.path), flags.words
    if flags.resume.endswith(".ckpt"):
        newest = "its newest readable checkpoint is used"
        raise InputError(f"--resume {flags.resume}: pass the run, {path}; {newest}")
    if flags.init:
        raise InputError("--init: a resumed run has its own weights; leave out --init or --resume")
    if words and "=" not in words[0]:
        name, words = words[0], words[1:]
        if name != run.config.name:
            raise InputError(f"{name}: {path} is a run of {run.config.name}; leave out the name")
    return resume_config(run, words, flags.override)


def _after_failure(run: Run, error: BaseException, new: bool, keep: bool) -> None:
    """Remove a run that never made a step, and print how to resume an interrupted one."""
    written = (run.path / "meta.json").exists()
    untrained = new and not run.checkpoints.exists()
    discarded = untrained and (isinstance(error, InputError) or not written)
    if discarded and not keep:
        run.discard()
    if isinstance(error, Interrupted):
        command = f"python -m src.train --resume {shlex.quote(display_path(run.path))}"
        stopped = "stopped before the first step" if discarded else f"stopped; to resume: {command}"
        print(f"\n{error.name}: {stopped}")
        if error.name == "SIGUSR1":
            requeue()


def _end_with_parent() -> None:
    """End with the process that started this one: its end of standard input is closed then."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def print_result(result: Result) -> None:
    """Print the metrics, and the next commands."""
    path = result.run.path
    print_metrics(result.metrics)
    epochs = format_count(read_json(path / "meta.json")["epochs"], "epoch")
    print(f"\nrun        {display_path(path)} ({epochs}, {result.seconds:.1f} s)")
    if (path / "report.html").exists():
        print(f"report     {display_path(path / 'report.html')}")
    print(f"curves     tensorboard --logdir {shlex.quote(display_path(run_module.LOGS))}")
    print(f"again      python -m src.evaluate {shlex.quote(display_path(path))}")


def print_metrics(metrics: dict[str, float]) -> None:
    """Print the metrics, a row each, a column for each stage."""
    import pandas as pd

    from src.kindling.runs.metric_names import parse_name

    if not metrics:
        print("metrics: none; neither validation nor test logs one")
        return
    rows: dict[str, dict[str, str]] = {}
    for name, value in metrics.items():
        stage, metric = parse_name(name)
        rows.setdefault(metric, {})[stage or "value"] = f"{value:.4f}"
    frame = pd.DataFrame.from_dict(rows, orient="index")
    stages = [stage for stage in ("train", "val", "test", "value") if stage in frame]
    print(frame[stages].rename_axis(columns="metric").to_string(na_rep=""))
