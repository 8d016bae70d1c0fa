"""`python -m src` lists the commands.

`kindling train …`, the console script, is `python -m src.train …`.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).parent


def commands() -> dict[str, str]:
    """Each command's name and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def show(argv: list[str]) -> None:
    """Print each command; a word that is none of them is a mistake."""
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
    """Start a command by its short name: the process becomes that of `python -m src.<verb>`.

    What starts the command again (torchrun, Lightning's DDP, a study's workers) and what a run
    records of it are therefore the same for both.
    """
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    is_command = verb.isidentifier() and (FOLDER / f"{verb}.py").is_file()
    words = [f"src.{verb}", *sys.argv[2:]] if is_command else ["src", *sys.argv[1:]]
    os.environ["KINDLING_PROGRAM"] = "kindling "  # for usage lines
    command = [sys.executable, "-m", *words]
    if os.name != "nt":
        os.execv(sys.executable, command)
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and saves first
    sys.exit(subprocess.call(command))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--complete"]:  # for the shell; imports little, to answer at once
        from src.kindling.dev.completion import complete

        print("\n".join(complete(sys.argv[2])))
    else:
        from src.kindling.config.command import run_command

        run_command(show)
