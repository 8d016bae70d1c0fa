"""Command-line flags of every study."""

from __future__ import annotations

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser, told: bool = True) -> None:
    """The flags of every command that runs a study; told in its help or not."""
    flags: dict[str, dict[str, Any]] = {
        "--workers": {"type": int, "default": 1, "metavar": "N", "help": "how many members are trained at a time (1)"},
        "--storage": {"metavar": "URL", "help": "postgresql://USER@HOST/DATABASE, for work on several machines"},
        "--name": {"help": "of the study; with another name another one is begun"},
        "--retry": {"action": "store_true", "help": "run failed members again"},
        "--pictures": {"action": "store_true", "help": "plots/ and a report.html for each member too"},
    }
    for flag, options in flags.items():
        parser.add_argument(flag, **{**options, **({} if told else {"help": argparse.SUPPRESS})})
