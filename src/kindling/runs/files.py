"""Write text and JSON files whole or not at all, and show paths as a user types them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from src.kindling.config.errors import InputError, TrainingError, escape_control


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text, encoding="utf-8", newline="")  # a patch keeps its line ends
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def require_folder(run: Path) -> None:
    """Raise a TrainingError if a run's directory was deleted during its training."""
    if not run.is_dir():
        remedy = "train again, or resume it from its new place"
        raise TrainingError(f"{display_path(run)}: deleted or moved during the training; {remedy}")


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON; numbers that JSON does not know (NaN, inf) become null."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: known(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [known(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write(path, json.dumps(known(values), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{display_path(path)}: not readable: {error}; remove it") from None
    return values


def display_path(path: Path) -> str:
    """A path as a user would type it: relative to the current folder if it is inside it."""
    path, here = path.absolute(), Path.cwd()
    return escape_control(str(path.relative_to(here) if path.is_relative_to(here) else path))
