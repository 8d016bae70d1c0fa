"""The arguments of classes and functions, read from source files without importing them."""

from __future__ import annotations

import ast
import functools
import sys
from importlib.util import resolve_name
from pathlib import Path

from src.kindling.config.instantiate import GIVEN, PASSED_LATER

# What a part receives from the command or from its caller, where its constructor requires it.
RECEIVED = {*GIVEN["task"], *PASSED_LATER}


def arguments(path: str) -> list[str]:
    """The arguments of a class, function or dataclass that a config may set.

    `**kwargs` are followed to the base classes, or to the class that a function returns.

    Args:
        path: dotted, such as `torch.optim.AdamW`. None are found for what has no Python source.
    """
    module, node = find(path) or ("", None)
    if isinstance(node, ast.FunctionDef):
        names, bases = _settable(node), [node.returns] if node.args.kwarg and node.returns else []
    elif isinstance(node, ast.ClassDef):
        names, bases = _of_class(node)
    else:
        return []
    for base in bases:
        names += arguments(f"{module}.{ast.unparse(base)}")
    return list(dict.fromkeys(names))


def _of_class(node: ast.ClassDef) -> tuple[list[str], list[ast.expr]]:
    """The arguments of a class, and the bases that take further ones."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _settable(part)[1:], node.bases if part.args.kwarg else []
    is_dataclass = any("dataclass" in ast.unparse(name) for name in node.decorator_list)
    fields = [part.target for part in node.body if isinstance(part, ast.AnnAssign)]
    return [ast.unparse(field) for field in fields] if is_dataclass else [], node.bases


def _settable(function: ast.FunctionDef) -> list[str]:
    """The names of a function's arguments without those that the command passes."""
    positional = function.args.args
    required = {arg.arg for arg in positional[: len(positional) - len(function.args.defaults)]}
    names = [arg.arg for arg in positional + function.args.kwonlyargs]
    return [name for name in names if name[0] != "_" and name not in required & RECEIVED]


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
