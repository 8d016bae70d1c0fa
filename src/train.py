"""Train an experiment: fit it, test the best checkpoint, and leave a run in logs/.

    python -m src.train [CONFIG] [key=value ...] [--init RUN] [--resume RUN] [--override] [--no-pictures] [--no-test]
    python -m src.train [CONFIG] [key=value ...] --seeds 0,1,2 [--workers 2] [--storage URL] [--name NAME] [--retry] [--pictures]
    python -m src.train [CONFIG] [key=value ...] --find lr|batch_size

The heavy imports stand inside the functions, so that help and first mistakes are told before torch is loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError, counting
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.run import Run, find_run
from src.kindling.runs.signals import Interrupted
from src.kindling.studies.flags import add_flags
from src.kindling.studies.study import seeds
from src.kindling.training.distributed import agreed, rank
from src.kindling.training.slurm import requeue, requeued

if TYPE_CHECKING:
    from src.kindling.data.batch import Stage
from src.kindling.training.fit import Result, _follow, _go_on, fit, table


def main(argv: list[str]) -> Result | None:
    parser = Parser("train", "[CONFIG] [key=value ...] [--flags]", "Train an experiment and test it.",
                    with_configs=True)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help="a config's name, and values to change")
    parser.add_argument("--init", metavar="RUN", help="begin with another run's weights")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run, in its own directory")
    parser.add_argument("--override", action="store_true", help="with --resume: what differs from the run is meant")
    parser.add_argument("--no-pictures", action="store_true", help="leave out plots/ and report.html")
    parser.add_argument(
        "--find", choices=("lr", "batch_size"), metavar="WHAT", help="lr or batch_size: what to begin with"
    )
    parser.add_argument("--seeds", metavar="0,1,2", help="train with each of them, and say how the results spread; with "
                        "--workers, --storage, --name, --retry and --pictures, as src.tune has them")  # fmt: skip
    add_flags(parser, told=False)
    # What a study trains in processes of their own: in this folder, anew or further, while standard input is open.
    parser.add_argument("--member", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--no-test", action="store_true", help="leave the test set unseen")
    flags = parser.read(argv)
    if not flags.seeds and (flags.workers != 1 or flags.storage or flags.name or flags.retry or flags.pictures):
        raise InputError("--workers, --storage, --name, --retry, --pictures: belong to --seeds (data.num_workers=2 "
                         "prepares batches)")  # fmt: skip
    alone = next((flag for flag in ("seeds", "find") if getattr(flags, flag)), None)
    for other in ("init", "resume", "override", "no_test", "find"):
        if alone and other != alone and getattr(flags, other):
            raise InputError(f"--{other.replace('_', '-')}: does nothing with --{alone}; leave one of them out")
    if flags.seeds:
        seeds(flags.seeds, *split_words(flags.words), flags)
        return None
    if flags.find:
        from src.kindling.studies.search import find

        find(flags.find, *split_words(flags.words))
        return None
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
        run = find_run(flags.resume)
        if flags.resume.endswith(".ckpt"):
            raise InputError(f"--resume {flags.resume}: name the run, {shown(run.path)}: it goes on from its newest "
                             "whole checkpoint")  # fmt: skip
        config = _go_on(run, flags.words, flags.init, flags.override)

    from src.kindling.analysis.plots import Plots
    from src.kindling.config import instantiate
    from src.kindling.training.trained_run import load_run

    init = load_run(flags.init) if flags.init else None
    instantiate.check(config)
    if rank(config.values):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the first process of a distributed training speaks for all
    new = run is None
    run = run or member or Run(Path(agreed(config.values, lambda: str(Run.claim(config.name).path))))
    if member:
        threading.Thread(target=_follow, daemon=True).start()
    stages: tuple[Stage, ...] = ("val",) if flags.no_test else ("val", "test")
    try:
        result = fit(config, run, stages, init=init, resume=not new, override=flags.override,
                     plots=None if flags.no_pictures else Plots(run))  # fmt: skip
    except BaseException as error:
        written = (run.path / "meta.json").exists()
        if new and not run.checkpoints.exists() and (isinstance(error, InputError) or not written):
            if not (member or rank(config.values)):
                run.discard()  # nothing was trained
            if isinstance(error, Interrupted):
                print(f"\n{error.name}: stopped before the first step")
        elif isinstance(error, Interrupted):
            print(f"\n{error.name}: stopped; to go on: python -m src.train --resume {shown(run.path)}")
        if isinstance(error, Interrupted) and error.name == "SIGUSR1":
            requeue()
        raise
    if rank(config.values):
        return result  # the first process has yet to write how it ended
    table(result.metrics)
    meta = read_json(run.path / "meta.json")
    print(f"\nrun        {shown(run.path)} ({counting(meta['epochs'], 'epoch')}, {result.seconds:.1f} s)")
    if (run.path / "report.html").exists():
        print(f"report     {shown(run.path / 'report.html')}")
    print("curves     tensorboard --logdir logs")
    print(f"again      python -m src.evaluate {shown(run.path)}")
    return result


if __name__ == "__main__":
    run_command(main)
