"""Names that a package offers, imported when first asked for: importing torch takes 1.5 s."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package, for the names that its file imports for type checkers."""

    def load(name: str) -> Any:
        for node in ast.walk(ast.parse(Path(file).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and name in [one.asname for one in node.names]:
                return getattr(import_module(str(node.module)), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
