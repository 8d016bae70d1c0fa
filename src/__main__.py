"""`python -m src` lists the commands; the console script `kindling` starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def commands() -> dict[str, str]:
    """Each command's name and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef main(" in text:
            found[path.stem] = text.partition("\n")[0].strip('"')
    return found


def show(argv: list[str]) -> None:
    """Print each command; any word after it is a mistake."""
    from src.kindling.config.command import PROGRAM
    from src.kindling.config.errors import InputError, did_you_mean

    known = commands()
    if argv and argv[0] not in ("-h", "--help"):
        name, program = argv[0], PROGRAM.rstrip(" .")
        hint = f"; write {PROGRAM}{name} …" if name in known else did_you_mean(name, known)
        raise InputError(f"{name}: not expected after {program}{hint}")
    for name, about in known.items():
        print(f"{PROGRAM}{name:<10} {about}")


def kindling() -> NoReturn:
    """Become the process of `python -m src.<verb>`: DDP's children and a run's record see that."""
    verb, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if verb == "--complete":
        module = "src.kindling.dev.completion"
    elif verb.isalpha() and Path(__file__).with_name(f"{verb}.py").is_file():
        module = f"src.{verb}"
    else:
        module, words = "src", sys.argv[1:]
    command = [sys.executable, "-m", module, *words]
    os.environ["KINDLING_PROGRAM"] = "kindling "  # for usage lines
    if os.name != "nt":
        os.execv(sys.executable, command)
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and saves first
    sys.exit(subprocess.call(command))


if __name__ == "__main__":
    from src.kindling.config.command import run_command

    run_command(show)
