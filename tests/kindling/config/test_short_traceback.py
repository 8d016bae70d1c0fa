"""The traceback of an error in the user's code: the user's frames, the last one, and the error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.kindling.config.errors import InputError
from src.kindling.config.short_traceback import format_short


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINDLING_TRACEBACK", raising=False)


def text_of(call: Callable[[], object]) -> list[str]:
    """The lines of the error that a call raises."""
    try:
        call()
    except Exception:
        return format_short(*sys.exc_info()).splitlines()
    raise AssertionError


def functions(lines: list[str]) -> list[str]:
    return [line.rpartition(" in ")[2] for line in lines if line.startswith("  File ")]


def read() -> object:
    return json.loads("{")


def test_frames_of_libraries_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = text_of(read)
    assert lines[0] == "2 frames of libraries left out; KINDLING_TRACEBACK=1 prints all"
    assert functions(lines) == ["text_of", "read", "raw_decode"]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    monkeypatch.setenv("KINDLING_TRACEBACK", "1")
    lines = text_of(read)
    assert (lines[0], len(functions(lines))) == ("Traceback (most recent call last):", 5)


def test_errors_of_libraries_in_a_chain_are_left_out() -> None:
    library: dict[str, Callable[[], None]] = {}
    code = "def fail():\n    try:\n        {}[0]\n    except KeyError:\n        raise TypeError"
    exec(compile(code, "<string>", "exec"), library)

    def twice() -> None:
        try:
            read()
        except ValueError as error:
            raise InputError("mine") from error

    text = "\n".join(text_of(library["fail"]))
    assert text.count("Traceback") == 1
    assert "KeyError" not in text
    assert functions(text_of(twice)) == ["twice", "read", "raw_decode", "text_of", "twice"]


def test_errors_without_a_frame_of_the_user_are_whole(
    repository: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = """
from src.kindling.config.command import run_command
{0}
run_command(main)
"""
    done = command("-c", code.format("def main(argv):\n    import json; json.loads('{')"))
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "Traceback (most recent call last):",
    )
    assert '"<string>"' in done.stderr
    (repository / "src" / "nets" / "mine.py").write_text("def main(argv):\n    return argv[5]\n")
    done = command("-c", code.format("from src.nets.mine import main"))
    note, head, file, _, *_, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert note.endswith("frames of libraries left out; KINDLING_TRACEBACK=1 prints all")
    assert file.endswith('mine.py", line 2, in main')
    assert (head, last) == (
        "Traceback (most recent call last):",
        "IndexError: list index out of range",
    )
