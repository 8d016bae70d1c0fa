"""Command-line flags of every study."""

from __future__ import annotations

import argparse

from src.kindling.config.errors import InputError


def add_flags(parser: argparse.ArgumentParser, visible: bool = True) -> None:
    """Add the flags of every command that runs a study; `visible` in its help or not."""

    def add(flag: str, help: str, **options: object) -> None:
        parser.add_argument(flag, help=help if visible else argparse.SUPPRESS, **options)  # type: ignore[arg-type]

    add("--workers", "number of members to train in parallel (1)", type=int, default=1, metavar="N")
    add("--storage", "postgresql://USER@HOST/DATABASE, for machines without a shared disk")
    add("--name", "the study's name, so that one config can have several studies")
    add("--retry", "train failed members again", action="store_true")
    add("--pictures", "write plots/ and report.html for each member", action="store_true")


def check_train_flags(flags: argparse.Namespace) -> None:
    """Refuse flags of `src.train` that do nothing together.

    Raises:
        InputError: naming them.
    """
    of_study = flags.workers != 1 or flags.storage or flags.name or flags.retry or flags.pictures
    if of_study and not flags.seeds:
        raise InputError(
            "--workers, --storage, --name, --retry, --pictures: belong to --seeds "
            "(data.num_workers=2 prepares batches)"
        )
    alone = next((flag for flag in ("seeds", "find") if getattr(flags, flag)), None)
    for other in ("init", "resume", "override", "no_test", "find"):
        if alone and other != alone and getattr(flags, other):
            name = other.replace("_", "-")
            raise InputError(f"--{name}: does nothing with --{alone}; leave one of them out")
