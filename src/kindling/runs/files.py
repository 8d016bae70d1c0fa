"""Write text and JSON files whole or not at all, and show paths as a user types them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from src.kindling.config.errors import InputError, TrainingError, escape_control

MOST_LEVELS = 50


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.unlink(missing_ok=True)  # it could be a link
        with beside.open("x", encoding="utf-8", newline="") as file:  # a patch keeps its line ends
            file.write(text)
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
    known = json.loads(json.dumps(values), parse_constant=lambda _: None)
    write(path, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        InputError: when it is damaged, or holds numbers or texts that cannot be printed or written.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_int=_parse_int)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        check_plain(values, "content")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{display_path(path)}: not readable: {error}; remove it") from None
    return values


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # 10**400 is no float


def check_plain(values: Any, name: str, most: int = 1_000_000) -> None:
    """Check nested values of a file: at most so many, not too deep, each plain, texts in Unicode.

    Lists may repeat one another, exponentially many times.

    Raises:
        ValueError: naming what is wrong.
    """
    seen, left = 0, [(values, 0)]
    while left:
        value, depth = left.pop()
        seen += 1
        if seen > most or depth > MOST_LEVELS:
            raise ValueError(f"{name}: too large, or nested too deeply")
        if isinstance(value, dict | list | tuple):
            items = [*value, *value.values()] if isinstance(value, dict) else value
            left += [(item, depth + 1) for item in items]
        elif isinstance(value, str):
            value.encode()
        elif not isinstance(value, int | float | None):
            raise ValueError(f"{name}: holds a {type(value).__name__}, which is no plain value")


def refuse_links(folder: Path) -> None:
    """Raise an InputError for a link out of a run's folder, or for a pipe or device in it.

    A report would show what it leads to, and a command could write there.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder):
            problem = "a link out of a run from elsewhere"
        elif path.exists() and not path.is_file() and not path.is_dir():
            problem = "neither a file nor a folder"
        else:
            continue
        raise InputError(f"{display_path(path)}: {problem}; remove it")


def display_path(path: Path) -> str:
    """A path as a user would type it: relative to the current folder if it is inside it."""
    path, here = path.absolute(), Path.cwd()
    return escape_control(str(path.relative_to(here) if path.is_relative_to(here) else path))
