"""Complete a command line in the shell: commands, configs, groups, keys, flags and runs.

It has to answer while somebody types, and therefore imports no torch: the arguments of what a
config names are read from source files.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import os
import sys
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from src.kindling.config import compose as config_module
from src.kindling.config.allowed import ELSEWHERE, GIVEN, KINDS, PASSED_LATER
from src.kindling.config.command import Parser
from src.kindling.config.compose import ROOT, VALUES, compose, configs, get, groups
from src.kindling.config.errors import InputError
from src.kindling.runs import run as run_module

# Arguments that a constructor receives from the command or from its caller, not from the config.
RECEIVED = {"self", *GIVEN["task"], *PASSED_LATER}


def complete(line: str) -> list[str]:
    """Return the candidates for the last word of a command line.

    A candidate that ends with `.`, `=` or `/` is the beginning of a word.

    Args:
        line: up to the cursor, beginning with `kindling` or `python -m src.<command>`.
    """
    *before, word = line.split(" ")
    words = [part for part in before if part]
    prefix = ""
    if "-m" in words:
        words, prefix = words[words.index("-m") :], "src."
    commands = [f"{prefix}{path.stem}" for path in (ROOT / "src").glob("[!_]*.py")]
    if len(words) == 1:
        found = commands
    elif words[1] in commands:
        found = _complete_argument(words[1].removeprefix(prefix), words[2:], word)
    else:
        found = []
    return sorted({name for name in found if name.startswith(word)})


def read_script(shell: str) -> str:
    """The shell's own part: a function that asks `complete` for candidates."""
    return Path(__file__).with_suffix(f".{shell}").read_text(encoding="utf-8")


def _complete_argument(verb: str, words: list[str], word: str) -> list[str]:
    flags, kinds = read_arguments(verb)
    if word.startswith("-"):
        return [*flags]
    before, plain, changes = "", list[str](), list[str]()
    for given in words:
        if not given.startswith("-") and not flags.get(before):  # else it is a flag's value
            words_of_kind = changes if "=" in given else plain
            words_of_kind.append(given)
        before = given
    kind = flags.get(before, "")
    if not kind and kinds:
        kind = kinds[min(len(plain), len(kinds) - 1)]
    if "RUN" in kind:
        return list_runs(word)
    found = kind.split("|") if "|" in kind else []
    if kind == "CONFIG":
        found += configs()
    if kind == "SPACE":
        found += [path.stem for path in (config_module.CONFIGS / "space").glob("*.yaml")]
    if "key=value" in kinds and kind in ("CONFIG", "SPACE", "key=value"):
        found += list_keys(read_values(plain[0] if plain else "digits", changes), word)
    return found


def read_arguments(verb: str) -> tuple[dict[str, str], list[str]]:
    """Return a command's flags with the kind of each value, and the kinds of its words."""
    flags, kinds = dict[str, str](), list[str]()
    for action in read_parser(verb)._actions:
        kind = "|".join(action.choices or ()) or str(action.metavar or action.dest)
        if not action.option_strings:
            kinds += kind.split(", ")
        elif action.option_strings[-1] != "--member":  # a worker's
            flags[action.option_strings[-1]] = kind if action.nargs is None else ""
    return flags, kinds


def read_parser(verb: str) -> argparse.ArgumentParser:
    """The parser that a command's main makes first."""
    found: list[Parser] = []

    def stop(parser: Parser, argv: list[str]) -> argparse.Namespace:
        found.append(parser)
        raise InputError("only the parser is needed")

    main, read = importlib.import_module(f"src.{verb}").main, Parser.read
    Parser.read = stop  # type: ignore[method-assign, assignment]
    try:
        with suppress(InputError):
            main([])
    finally:
        Parser.read = read  # type: ignore[method-assign]
    return found[0]


def list_runs(word: str) -> list[str]:
    """Runs in logs/, one level of folders at a time."""
    parent = word.rpartition("/")[0]
    prefix = f"{parent}/" if parent else ""
    try:
        folders = [entry for entry in os.scandir(run_module.LOGS / parent) if entry.is_dir()]
    except OSError:
        return []
    names = [f"{prefix}latest"] if folders and "/" not in parent else []
    for folder in folders:
        is_run = os.path.exists(os.path.join(folder.path, "config.yaml"))
        names.append(f"{prefix}{folder.name}" + ("" if is_run else "/"))
    return names


def read_values(name: str, changes: list[str]) -> dict[str, Any]:
    """An experiment's values with changes, or without them where they cannot be composed."""
    for words in (changes, []):
        with suppress(InputError):
            return compose(name, words).values
    return {}


def list_keys(values: dict[str, Any], word: str) -> list[str]:
    """The keys at the level of a word; after its `=`, a group's options or the present value."""
    key, equals, _ = word.partition("=")
    if equals:
        options = [*groups().get(key, ())]
        present = get(values, key)
        if isinstance(present, str | int | float):
            options.append(str(present).lower() if isinstance(present, bool) else str(present))
        return [f"{key}={option}" for option in options]
    section = key.rpartition(".")[0]
    if not section:
        names = [f"{name}=" for name in (*groups(), *VALUES)]
        return [*names, *(f"{name}." for name in KINDS)]
    part = get(values, section)
    part = part if isinstance(part, dict) else {}
    target = part.get("_target_", KINDS["trainer"] if section == "trainer" else "")
    keys = {f"{section}.{name}": value for name, value in part.items()}
    keys = {f"{section}.{name}": None for name in arguments(str(target))} | keys
    names = [name + ("." if isinstance(value, dict) else "=") for name, value in keys.items()]
    return [name for name in names if name[:-1] not in ELSEWHERE]


def arguments(path: str) -> list[str]:
    """The arguments of a class or function that a config may set.

    `**kwargs` are followed to the base classes, or to the class that a function returns.

    Args:
        path: dotted, such as `torch.optim.AdamW`; the list is empty without Python source.
    """
    module, node = find_definition(path) or ("", None)
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


def find_definition(path: str) -> tuple[str, ast.stmt] | None:
    """The module and the definition of the class or function of a dotted path."""
    module, _, name = path.rpartition(".")
    file = _source(module) if module else None
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    statements = [*_parse(file).body]
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
            if named and (found := find_definition(f"{home}.{inner}")):
                return found
    return None


@functools.cache
def _parse(file: Path) -> ast.Module:
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


if __name__ == "__main__":  # called by the shell's own part
    print("\n".join(complete(sys.argv[1])))
