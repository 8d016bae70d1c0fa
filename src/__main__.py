"""`python -m src` lists the commands."""

from __future__ import annotations

import ast
from pathlib import Path


def commands() -> dict[str, str]:
    """Each command's name and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    for name, about in commands().items():
        print(f"python -m src.{name:<10} {about}")
