"""A pseudo-terminal for tests: what is written to it, read back as the rows of its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r\n|[\r\n]|[^\x1b\r\n]")


class Screen:
    """What a terminal shows: text, line ends, and the escape sequences that Rich writes.

    Attributes:
        columns: of the terminal; longer lines go on in the next row.
        rows: the whole output, as it stands on the screen and above it.
        erased: the rows that were erased, in order: each state of a bar.
    """

    def __init__(self, columns: int, text: str = "") -> None:
        self.columns, self.rows, self.erased = columns, [""], list[str]()
        self.row = self.column = 0
        self.feed(text)

    def feed(self, text: str) -> None:
        for match in TOKEN.finditer(text):
            number, code = match[1], match[2]
            if code == "A":
                self.row = max(0, self.row - int(number or 1))
            elif code == "K":
                assert number == "2", f"not known to this screen: {match[0]!r}"
                self.erased.append(self.rows[self.row].rstrip())
                self.rows[self.row] = ""
            elif code:
                assert code in "mhl", f"not known to this screen: {match[0]!r}"
            elif match[0] == "\r":
                self.column = 0
            elif match[0] in ("\n", "\r\n"):
                self._next_row()
            else:
                self._put(match[0])

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")

    def _put(self, letter: str) -> None:
        if self.column == self.columns:
            self._next_row()
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + letter + row[self.column + 1 :]
        self.column += 1

    def find_rows(self, pattern: str) -> list[str]:
        """The erased rows in which a pattern is found."""
        return [row for row in self.erased if re.search(pattern, row)]

    @property
    def text(self) -> str:
        """All rows as they stand now."""
        return "\n".join(row.rstrip() for row in self.rows)


def open_terminal(columns: int) -> tuple[int, int]:
    """The two ends of a pseudo-terminal of so many columns: the reader's, and the program's."""
    reader, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    return reader, program


def read_all(reader: int) -> str:
    """What was written, once the other end is closed."""
    written = b""
    try:
        while chunk := os.read(reader, 65536):
            written += chunk
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    return written.decode()


@contextmanager
def standard_output(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A terminal as this process's standard output; its screen can be read afterwards."""
    reader, program = open_terminal(columns)
    screen, written = Screen(columns), list[str]()
    thread = threading.Thread(target=lambda: written.append(read_all(reader)))
    thread.start()
    output: TextIO = os.fdopen(program, "w", encoding="utf-8")
    try:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", output)
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLUMNS", str(columns))
            yield screen
    finally:
        output.close()
        thread.join()
        screen.feed("".join(written))
