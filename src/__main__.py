"""`python -m src` lists the commands."""

from __future__ import annotations

import ast
from pathlib import Path

from src.kindling.config.command import run_command
from src.kindling.config.errors import InputError, did_you_mean


def commands() -> dict[str, str]:
    """Each command's name and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def show(argv: list[str]) -> None:
    """Print each command; a word after `python -m src` would be ignored."""
    known = commands()
    if argv and argv[0] not in ("-h", "--help"):
        name = argv[0]
        hint = f"; write python -m src.{name} …" if name in known else did_you_mean(name, known)
        raise InputError(f"{name}: not expected after python -m src{hint}")
    for name, about in known.items():
        print(f"python -m src.{name:<10} {about}")


if __name__ == "__main__":
    run_command(show)
