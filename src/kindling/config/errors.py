"""The error for a mistake in the user's input, and functions to write its message."""

from __future__ import annotations

import builtins
import difflib
import json
import os
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Code that is not the user's: the engine's, and that of Python and installed packages.
NOT_USERS = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
)
TRUST = "if you trust its author, pass --trust, which lets it run any code here"
# The variables of the environment that configs have read.
from_environment: set[str] = set()


def hide_environment(text: str) -> str:
    """A text with references in the place of values that configs have read from the environment."""
    for name in from_environment:
        value = os.environ.get(name, "")
        # A number or a short word would be replaced in unrelated places too.
        for shown in (value, repr(value)[1:-1]) if len(value) > 3 else (repr(value),):
            text = text.replace(shown, f"${{oc.env:{name}}}")
    return text


class InputError(Exception):
    """Something the user gave cannot work.

    A command prints the lines as they are, without a traceback, and exits with `status`. Each line
    names the file or key, the value, and the remedy.
    """

    status = 2

    def __init__(self, lines: str | Sequence[str]) -> None:
        if isinstance(lines, str):
            # A data loader's worker hands on an error as text, its traceback first.
            lines = lines.rpartition("src.kindling.config.errors.InputError: ")[2].splitlines()
        self.lines = [escape_control(hide_environment(line)) for line in lines]
        super().__init__("\n".join(self.lines))


class TrainingError(InputError):
    """A training failed after it began: NaN/Inf, out of memory, a full disk, a killed worker."""

    status = 1


def escape_control(text: str) -> str:
    """A line with `\\x1b` and the like in the place of characters that control a terminal."""
    escaped = {c: c.encode("unicode_escape").decode() for c in {*text} - {"\t"}}
    return "".join(c if c.isprintable() else escaped.get(c, c) for c in text)


def did_you_mean(given: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint `; did you mean 'width'?` for the nearest of the names, or an empty string."""
    names = sorted(names)
    near = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    # Another case, or the beginning of a single name, outweighs the number of equal letters.
    begun = [name for name in names if len(given) > 2 and name.startswith(given)]
    near = begun if len(begun) == 1 else near
    near = [name for name in names if name.casefold() == given.casefold()] or near
    return f"; did you mean '{near[0]}'?" if near else ""


def format_count(number: int, thing: str, things: str | None = None) -> str:
    """`1 epoch`, `2 epochs`, or another plural."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def format_float(value: float) -> str:
    """`0.1235`, `9.6`, `267,360`: four significant digits or all whole ones, for people to read."""
    return f"{value:,.0f}" if 9999.5 <= abs(value) < 1e15 else f"{value:.4g}"


def join_names(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(escape_control(str(name)) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def shorten_value(text: str, value: Any) -> str:
    """Shorten a value's text to 24 characters; a list keeps whole items of both ends."""
    values = value if isinstance(value, list) else ()
    items = [json.dumps(item, ensure_ascii=False) for item in values]
    for kept in range(len(items) - 1, 1, -1):
        ends = [*items[: kept - kept // 2], "…", *items[-(kept // 2) :]]
        if len(short := f"[{', '.join(ends)}]") <= 24:
            return short
    return f"{text[:10]}…{text[-13:]}"


def explain_typo(error: BaseException) -> str:
    """`src/nets/mine.py:9: module 'torch.nn' has no attribute 'Liner'; did you mean 'Linear'?`

    Empty unless code of the user's own asks for a name that is nearly right.
    """
    if not isinstance(error, AttributeError | NameError):
        return ""
    frames = list(traceback.walk_tb(error.__traceback__))
    # torch.nn.Module has a function for its missing attributes.
    frame, line = next(pair for pair in reversed(frames) if pair[0].f_code.co_name != "__getattr__")
    file = frame.f_code.co_filename
    if file.startswith(NOT_USERS):
        return ""
    names = {*dir(builtins), *frame.f_globals, *frame.f_locals}
    if isinstance(error, AttributeError):
        names = {*dir(error.obj)}
    hint = did_you_mean(error.name or "", names)
    return f"{file.removeprefix(os.getcwd() + os.sep)}:{line}: {error}{hint}" if hint else ""
