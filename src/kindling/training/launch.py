"""Start or resume the training that a command line asks for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from src.kindling.config.command import split_words
from src.kindling.config.compose import Config, compose
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.run import Run, find_run
from src.kindling.runs.signals import Interrupted
from src.kindling.training.distributed import broadcast, rank
from src.kindling.training.slurm import requeue, requeued

if TYPE_CHECKING:
    from src.kindling.data.samples import Stage
    from src.kindling.training.fit import Result
    from src.kindling.training.prepare import Drawer


def launch(flags: Namespace, plots: Callable[[Run], Drawer] | None) -> Result:
    """Train as the flags of `src.train` say.

    Args:
        flags: `words`, `init`, `resume`, `override`, `member`, `no_test`.
        plots: makes what draws a run's plots; None leaves them out.
    """
    member = Run(Path(flags.member)) if flags.member else None
    begun = member.path if member and (member.path / "meta.json").exists() else requeued()
    if flags.resume is None and begun:
        flags.resume, flags.words = str(begun), []
    run: Run | None = None
    if flags.resume is None:
        if flags.override:
            raise InputError("--override: belongs to --resume RUN")
        config = compose(*split_words(flags.words))
    else:
        run = _find_resumed(flags.resume)
        config = _resumed_config(run, flags)

    from src.kindling.config import instantiate
    from src.kindling.training.fit import fit
    from src.kindling.training.trained_run import load_run

    init = load_run(flags.init) if flags.init else None
    instantiate.check(config)
    if rank(config.values):  # the first process of a distributed training speaks for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    new = run is None
    run = (
        run
        or member
        or Run(Path(broadcast(config.values, lambda: str(Run.claim(config.name).path))))
    )
    if member:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    stages: tuple[Stage, ...] = ("val",) if flags.no_test else ("val", "test")
    try:
        return fit(
            config,
            run,
            stages,
            init=init,
            resume=not new,
            override=flags.override,
            plots=plots(run) if plots else None,
        )
    except BaseException as error:
        keep = member is not None or rank(config.values) > 0
        _after_failure(run, error, new, keep)
        raise


def print_result(result: Result) -> None:
    """Print the metrics, and the commands for what follows."""
    path = result.run.path
    print_metrics(result.metrics)
    epochs = format_count(read_json(path / "meta.json")["epochs"], "epoch")
    print(f"\nrun        {shown(path)} ({epochs}, {result.seconds:.1f} s)")
    if (path / "report.html").exists():
        print(f"report     {shown(path / 'report.html')}")
    print("curves     tensorboard --logdir logs")
    print(f"again      python -m src.evaluate {shown(path)}")


def print_metrics(metrics: dict[str, float]) -> None:
    """Print the metrics, a row each, a column for each stage."""
    from rich.console import Console
    from rich.table import Table

    from src.kindling.runs.metric_names import canonical_name

    values = {canonical_name(name): value for name, value in metrics.items()}
    stages = [
        stage
        for stage in ("train", "val", "test")
        if any(key.startswith(f"{stage}/") for key in values)
    ]
    table = Table("metric", *stages, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys(key.partition("/")[2] or key for key in values):
        found = [values.get(f"{stage}/{name}") for stage in stages]
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in found))
    Console().print(table)


def _find_resumed(name: str) -> Run:
    run = find_run(name)
    if name.endswith(".ckpt"):
        raise InputError(
            f"--resume {name}: pass the run, {shown(run.path)}; "
            "its newest readable checkpoint is used"
        )
    return run


def _resumed_config(run: Run, flags: Namespace) -> Config:
    """The config that a run is resumed with: its own, and what the words change."""
    from src.kindling.training.resume import resume_config

    words = flags.words
    if flags.init:
        raise InputError(
            "--init: a resumed run has weights of its own; leave out --init or --resume"
        )
    if words and "=" not in words[0]:
        name, words = words[0], words[1:]
        if name != run.config.name:
            path, own = shown(run.path), run.config.name
            raise InputError(f"{name}: {path} is a run of {own}; leave the config's name out")
    return resume_config(run, words, flags.override)


def _after_failure(run: Run, error: BaseException, new: bool, keep: bool) -> None:
    """Remove a run that never made a step, and print how to resume an interrupted one."""
    written = (run.path / "meta.json").exists()
    untrained = new and not run.checkpoints.exists()
    if untrained and (isinstance(error, InputError) or not written):
        if not keep:
            run.discard()
        if isinstance(error, Interrupted):
            print(f"\n{error.name}: stopped before the first step")
    elif isinstance(error, Interrupted):
        print(f"\n{error.name}: stopped; to resume: python -m src.train --resume {shown(run.path)}")
    if isinstance(error, Interrupted) and error.name == "SIGUSR1":
        requeue()


def _end_with_parent() -> None:
    """End with the process that started this one: its end of standard input is closed then."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
