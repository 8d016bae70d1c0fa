"""Command-line flags of every study."""

from __future__ import annotations

import argparse

from src.kindling.config.command import split_words
from src.kindling.config.errors import InputError

INSTEAD = ("seeds", "find", "show", "dry_run")  # of a training


def add_flags(parser: argparse.ArgumentParser, visible: bool = True) -> None:
    """Add the flags of every command that runs a study; `visible` in its help or not."""
    switch, number = {"action": "store_true"}, {"type": int, "default": 1, "metavar": "N"}
    for flag, text, options in (
        ("--workers", "number of members to train in parallel (1)", number),
        ("--storage", "postgresql://USER@HOST/DATABASE, for machines without a shared disk", {}),
        ("--name", "the study's name, so that one config can have several studies", {}),
        ("--retry", "train failed members again", switch),
        ("--plots", "write plots/ and report.html for each member", switch),
    ):
        parser.add_argument(flag, help=text if visible else argparse.SUPPRESS, **options)
    if not visible:  # src.train: the trial that a worker starts, in its own directory
        parser.add_argument("--member", metavar="FOLDER", help=argparse.SUPPRESS)


def run_instead(flags: argparse.Namespace) -> bool:
    """Run seeds, find or show instead of one training; return whether a flag asks for it."""
    check_train_flags(flags)
    words = split_words(flags.words)
    if flags.seeds:
        from src.kindling.studies.seeds import run_seeds

        run_seeds(flags.seeds, *words, flags)
    elif flags.find:
        from src.kindling.studies.find import find

        find(flags.find, *words)
    elif flags.show or flags.dry_run:
        from src.kindling.analysis.show import show

        show(*words, dry_run=flags.dry_run)
    return any(getattr(flags, flag) for flag in INSTEAD)


def check_train_flags(flags: argparse.Namespace) -> None:
    """Refuse flags of `src.train` that do nothing together; raise InputError."""
    of_study = flags.workers != 1 or flags.storage or flags.name or flags.retry or flags.plots
    if of_study and not flags.seeds:
        names = "--workers, --storage, --name, --retry, --plots"
        raise InputError(f"{names}: belong to --seeds (data.num_workers=2 prepares batches)")
    if flags.graph and flags.no_plots:
        raise InputError("--graph: has no effect with --no-plots; remove one of them")
    chosen = [flag for flag in INSTEAD if getattr(flags, flag)]
    others = ("init", "partial", "by_order", "resume", "override", "no_test", "graph", *chosen[1:])
    for other in others if chosen else ():
        if getattr(flags, other):
            name, alone = other.replace("_", "-"), chosen[0].replace("_", "-")
            raise InputError(f"--{name}: has no effect with --{alone}; remove one of them")
