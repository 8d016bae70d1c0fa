"""Format an error of the user's own code without the frames of libraries and of the engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary, TracebackException
from typing import Any

from src.kindling.config.errors import NOT_USERS, format_count

COMMANDS = Path(__file__).parents[2]  # src/train.py and the like


def format_short(*error: Any) -> str:
    """Format an error, of `sys.exc_info()`, with the frames of the user's files and the last.

    Of a chain, only the errors with a frame of the user's are kept. The text is whole if there is
    no such frame, with KINDLING_TRACEBACK=1, and with `python -X dev`.
    """
    shown, note = TracebackException(*error, compact=True), ""
    whole = os.environ.get("KINDLING_TRACEBACK", "0") != "0" or sys.flags.dev_mode
    if not whole and any(_is_users(frame) for link in _chain(shown) for frame in link.stack):
        frames = format_count(_shorten(shown), "frame")
        note = f"{frames} of libraries left out; KINDLING_TRACEBACK=1 prints all\n"
    return note + "".join(shown.format())


def print_short(*error: Any) -> None:
    """Print an uncaught error; for `sys.excepthook`."""
    print(format_short(*error), end="", file=sys.stderr)


def _chain(link: TracebackException | None) -> Iterator[TracebackException]:
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _shorten(first: TracebackException) -> int:
    """Leave out frames and errors that are not the user's; return the number of frames."""
    links = [*_chain(first)]
    count = sum(len(link.stack) for link in links)
    kept = [first, *(link for link in links[1:] if any(map(_is_users, link.stack)))]
    for link, earlier in zip(kept, [*kept[1:], None], strict=True):
        link.stack[:] = [*filter(_is_users, link.stack[:-1]), *link.stack[-1:]]
        link.__cause__, link.__context__ = (earlier, None) if link.__cause__ else (None, earlier)
    return count - sum(len(link.stack) for link in kept)


def _is_users(frame: FrameSummary) -> bool:
    file = Path(frame.filename)
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    is_library = installed or frame.filename.startswith(("<", *NOT_USERS))
    return not is_library and file.parent != COMMANDS
