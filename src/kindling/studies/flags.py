"""Command-line flags of every study."""

from __future__ import annotations

import argparse

from src.kindling.config.errors import InputError


def add_flags(parser: argparse.ArgumentParser, visible: bool = True) -> None:
    """Add the flags of every command that runs a study; `visible` in its help or not."""
    switch, number = {"action": "store_true"}, {"type": int, "default": 1, "metavar": "N"}
    for flag, text, options in (
        ("--workers", "number of members to train in parallel (1)", number),
        ("--storage", "postgresql://USER@HOST/DATABASE, for machines without a shared disk", {}),
        ("--name", "the study's name, so that one config can have several studies", {}),
        ("--retry", "train failed members again", switch),
        ("--pictures", "write plots/ and report.html for each member", switch),
    ):
        parser.add_argument(flag, help=text if visible else argparse.SUPPRESS, **options)
    if not visible:  # src.train: the trial that a worker starts, in its own directory
        parser.add_argument("--member", metavar="FOLDER", help=argparse.SUPPRESS)


def check_train_flags(flags: argparse.Namespace) -> None:
    """Refuse flags of `src.train` that do nothing together; raise InputError."""
    of_study = flags.workers != 1 or flags.storage or flags.name or flags.retry or flags.pictures
    if of_study and not flags.seeds:
        names = "--workers, --storage, --name, --retry, --pictures"
        raise InputError(f"{names}: belong to --seeds (data.num_workers=2 prepares batches)")
    if flags.graph and flags.no_pictures:
        raise InputError("--graph: has no effect with --no-pictures; remove one of them")
    alone = "seeds" if flags.seeds else "find" if flags.find else ""
    for other in ("init", "resume", "override", "no_test", "graph", "find"):
        if alone and other != alone and getattr(flags, other):
            name = other.replace("_", "-")
            raise InputError(f"--{name}: has no effect with --{alone}; remove one of them")
