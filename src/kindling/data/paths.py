"""Where data are."""

from __future__ import annotations

from pathlib import Path

from src.kindling.config.compose import ROOT


def data_path(path: str | Path) -> Path:
    """Resolve a path from a config: expand `~`; relative paths start at the repository.

    Those of a command line start at the current folder, and are absolute here.
    """
    return ROOT / Path(path).expanduser()
