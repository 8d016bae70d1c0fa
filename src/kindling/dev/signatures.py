"""The arguments of classes and functions, read from source files without importing them."""

from __future__ import annotations

import ast
import functools
import sys
from importlib.util import resolve_name
from pathlib import Path

from src.kindling.config.allowed import GIVEN, PASSED_LATER

# Arguments that a constructor receives from the command or from its caller, not from the config.
RECEIVED = {"self", *GIVEN["task"], *PASSED_LATER}


def arguments(path: str) -> list[str]:
    """The arguments of a class or function that a config may set.

    `**kwargs` are followed to the base classes, or to the class that a function returns.

    Args:
        path: dotted, such as `torch.optim.AdamW`; the list is empty without Python source.
    """
    module, node = find(path) or ("", None)
    function, owners = node, [getattr(node, "returns", None)]
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if getattr(part, "name", "") == "__init__"]
        function, owners = inits[0] if inits else None, [*node.bases]
    names = []
    if isinstance(function, ast.FunctionDef):
        positional, defaults = function.args.args, function.args.defaults
        required = {arg.arg for arg in positional[: len(positional) - len(defaults)]}
        names = [arg.arg for arg in positional + function.args.kwonlyargs]
        names = [name for name in names if name[0] != "_" and name not in required & RECEIVED]
        owners = owners if function.args.kwarg else []
    for owner in filter(None, owners):
        names += arguments(f"{module}.{ast.unparse(owner)}")
    return list(dict.fromkeys(names))


def find(path: str) -> tuple[str, ast.stmt] | None:
    """The module and the definition of the class or function of a dotted path."""
    module, _, name = path.rpartition(".")
    file = _source(module) if module else None
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    statements = [*parse(file).body]
    for node in statements:
        if isinstance(node, ast.If | ast.Try):
            statements += node.body
        if getattr(node, "name", "") == name:
            return module, node
        if not isinstance(node, ast.ImportFrom):
            continue
        home = resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            inner = name if alias.name == "*" else alias.name
            named = alias.name == "*" or (alias.asname or alias.name) == name
            if named and (found := find(f"{home}.{inner}")):
                return found
    return None


@functools.cache
def parse(file: Path) -> ast.Module:
    """A source file's tree; empty where the file is damaged, as while it is edited."""
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError:
        return ast.Module([], [])


def _source(module: str) -> Path | None:
    """A module's file. `importlib.util.find_spec` would import the packages around it."""
    for folder in sys.path:
        path = Path(folder, *module.split("."))
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    return None
