"""The engine: nobody has to open it to add a task."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import suppress
from pathlib import Path


def _warn_of_other_clone() -> None:
    """Print a line if the current folder is in another clone than the one that is imported.

    With two clones in one environment, Python finds `src` in the installed one, unless it starts
    in the other's own folder.
    """
    own, current = Path(__file__).resolve().parents[2], Path.cwd()
    clones = [path for path in (current, *current.parents) if (path / "src/kindling").is_dir()]
    if clones and clones[0] != own:
        imported = f"the package of {own} runs (logs in {own / 'logs'})"
        other = f"this folder belongs to the clone {clones[0]}"
        remedy = f"cd {clones[0]}, or pip install -e {clones[0]}"
        print(f"WARNING    src: {imported}, but {other}; {remedy}", file=sys.stderr)


if (
    multiprocessing.current_process().name == "MainProcess"
    and os.environ.get("LOCAL_RANK", "0") == "0"
):
    with suppress(OSError):  # the current folder was deleted
        _warn_of_other_clone()
