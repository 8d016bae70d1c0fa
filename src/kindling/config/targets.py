"""Targets: the classes and functions that a config names by a dotted path, and their arguments.

A config may come from somebody else's checkpoint, so a path alone never decides what is built. A
target must be in a package of the lists below, which is decided before anything is imported, and
of a kind that its place in the config takes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from src.kindling.config.allowed import LIBRARIES, NESTED, OF_STRANGERS, REFUSED, ROOMS
from src.kindling.config.errors import TRUST, InputError, did_you_mean, explain_typo

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
ALLOW = "[tool.kindling] targets in pyproject.toml"


def find(
    path: Any, expected: Sequence[type], nested: tuple[str, ...] = (), trusted: bool = True
) -> Any:
    """The class or function that a dotted path names, where its place in the config takes it.

    Args:
        path: the `_target_`.
        expected: the classes that it may make; none where an annotation names none.
        nested: for an argument, the kinds of the libraries' classes that may be one (`NESTED`).
        trusted: whether the user wrote the config; else only `OF_STRANGERS` and the user's own.

    Raises:
        ValueError: with the reason, when there is none, or when it is not allowed.
    """
    found = locate(path)
    if not (trusted or _is_users(path, found) or _within(_home(found), OF_STRANGERS)):
        raise ValueError(f"'{path}' is not built from a config written elsewhere; {TRUST}")
    made = returned(found)
    if made is None:
        returns = _join(expected) or "its class"
        raise ValueError(f"'{path}' has no return annotation; annotate it: -> {returns}")
    if not (inspect.isclass(made) and issubclass(made, tuple(expected) or object)):
        raise ValueError(f"expected {_join(expected) or 'a class'}, got '{path}'")
    # torchvision's older transforms are no modules.
    older = nested == NESTED and _within(made.__module__, ("torchvision.transforms",))
    if nested and not (older or _is_users(path, made) or issubclass(made, kinds(nested))):
        expectation = f"expected {_join(kinds(nested))}, got '{path}'"
        raise ValueError(f"{expectation}; to allow it, add its full path to {ALLOW}")
    return found


def locate(path: Any) -> Any:
    """The class or function of a dotted path, or ValueError where a config may not name it."""
    allowed = ("src", *LIBRARIES, *allowed_by_user())
    packages = f"the allowed packages ({', '.join(allowed)})"
    outside = f"outside {packages}; add its package or its full path to {ALLOW}"
    # Decided before anything is imported: an import runs code as well.
    if not isinstance(path, str) or not _within(path, allowed):
        raise ValueError(f"{path!r} is {outside}")
    private = next((step for step in path.split(".") if step.startswith("_")), None)
    if private and (private.startswith("__") or _within(path, LIBRARIES)):
        raise ValueError(f"'{path}': '{private}' is private; name a public class")
    found = load(path)
    is_class = inspect.isclass(found)
    if not (is_class or inspect.isroutine(found)):
        raise ValueError(f"{path!r} is of type {type(found).__name__}, not a class")
    if _is_users(path, found):
        return found
    if not _within(_home(found), allowed):
        raise ValueError(f"{path!r} comes from '{found.__module__}', {outside}")
    if not is_class and not _is_model_builder(found):
        raise ValueError(
            f"{path!r} is a function of a library, not a class; add its full path to {ALLOW}"
        )
    for base in inspect.getmro(found) if is_class else ():
        for pattern, reason in REFUSED.items():
            if re.match(rf"{pattern}\b", _home(base)):
                raise ValueError(f"'{path}' {reason}; to allow it, add this path to {ALLOW}")
    return found


def load(path: str) -> Any:
    """The object of a dotted path in any package; `locate` is for paths that a user gives."""
    name, *steps = path.split(".")
    found = _import(name)
    for step in steps:
        folders = getattr(found, "__path__", [])
        if not hasattr(found, step) and PathFinder.find_spec(step, folders):
            _import(f"{name}.{step}")
        if not hasattr(found, step):
            names = [other for other in dir(found) if not other.startswith("_")]
            names += [module.name for module in pkgutil.iter_modules(folders)]
            raise ValueError(f"'{name}' has no '{step}'{did_you_mean(step, names)}")
        found, name = getattr(found, step), f"{name}.{step}"
    return found


class _LightningAlias(MetaPathFinder, Loader):
    """Imports the older package `pytorch_lightning` as `lightning.pytorch`.

    The two have the same code but different classes, so that a Trainer of one refuses a module of
    the other. The Trainer here is Lightning's; many projects still import the older name.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] == "pytorch_lightning" else None

    def exec_module(self, module: types.ModuleType) -> None:
        newer = module.__name__.replace("pytorch_lightning", "lightning.pytorch", 1)
        sys.modules[module.__name__] = importlib.import_module(newer)


def _import(name: str) -> types.ModuleType:
    if not any(isinstance(finder, _LightningAlias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LightningAlias())
    try:
        return importlib.import_module(name)
    except Exception as error:
        problem = explain_typo(error) or f"{type(error).__name__}: {error}"
        raise ValueError(f"importing '{name}' failed: {problem}") from error


@functools.cache
def allowed_by_user() -> tuple[str, ...]:
    """The packages and full paths that pyproject.toml adds."""
    key = "pyproject.toml: tool.kindling.targets"
    try:
        content = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")) if PYPROJECT.exists() else {}
        targets = content.get("tool", {}).get("kindling", {}).get("targets", [])
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{key} cannot be read: {error}") from None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise InputError(f"{key}: expected a list of texts, got {targets!r}")
    return tuple(targets)


@functools.cache
def kinds(names: tuple[str, ...]) -> tuple[type, ...]:
    """The classes of the given paths."""
    return tuple(load(name) for name in names)


def _is_model_builder(function: Any) -> bool:
    """Whether it is a function of torchvision or timm that makes one of its models."""
    from torchvision.models import get_model_builder, list_models

    if _within(_home(function), ("timm",)):
        from timm.models import is_model, model_entrypoint

        name = function.__name__
        return is_model(name) and model_entrypoint(name) is function
    return any(function is get_model_builder(name) for name in list_models())


def _is_users(path: str, found: Any) -> bool:
    """Whether somebody who owns this repository wrote it, or has allowed it by name."""
    return path in allowed_by_user() or _within(_home(found), (*ROOMS, *allowed_by_user()))


def _join(classes: Sequence[type]) -> str:
    return " or ".join(kind.__name__ for kind in classes)


def _home(found: Any) -> str:
    """The path at which a class or function is defined."""
    return f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', '')}"


def _within(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted path is one of these, or is in one of them."""
    return any(f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments that a class or function accepts by name, annotations resolved.

    `**kwargs` are followed to where they are passed on: from a class to its bases, and from a
    function (such as torchvision's `resnet18`) to the class that it returns.
    """
    return _signature(target)[0]


def accepts_any(target: Any) -> bool:
    """Whether a class or function has `**kwargs` that lead to no other signature."""
    # timm's builders pass any others to functions that download and unpickle weights.
    of_timm = inspect.isroutine(target) and _within(_home(target), ("timm",))
    return _signature(target)[1] and not (of_timm and not _is_users("", target))


def returned(target: Any) -> Any:
    """The type of the object that a target makes: a class, or a function's return annotation."""
    return target if inspect.isclass(target) else _annotations(target).get("return")


def _signature(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named arguments of a target, and whether it also accepts any others."""
    functions, made = [] if inspect.isclass(target) else [target], returned(target)
    if inspect.isclass(made):
        owners = [cls for cls in made.__mro__[:-1] if "__init__" in cls.__dict__]
        inits = [cls.__dict__["__init__"] for cls in owners] or [made.__new__]
        functions += [types.MethodType(init, made) for init in inits]
    found: dict[str, inspect.Parameter] = {}
    is_open = False
    for number, function in enumerate(functions):
        if _within(_home(function), ("lightning.pytorch.core",)):
            break  # it ignores its `**kwargs`
        hints = _annotations(function)
        try:
            arguments = [*inspect.signature(function).parameters.values()]
        except (ValueError, TypeError):
            arguments = []
        own = {
            p.name: p.replace(annotation=hints.get(p.name, Any))
            for p in arguments
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        if number:  # a base's arguments, which the class may fill in by itself
            required = [p for p in own.values() if p.default is p.empty]
            own |= {p.name: p.replace(default=None) for p in required}
        passes_on = any(p.kind is p.VAR_KEYWORD for p in arguments)
        is_open = passes_on or (is_open and not own)
        found = {**own, **found}
        if not passes_on:
            break
    return found, is_open


def _annotations(function: Any) -> dict[str, Any]:
    """A function's annotations; what cannot be resolved, or is no type, is left out."""
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hint = get_type_hints(one, globalns=scope)[name]
        except Exception:  # an annotation that only its author's type checker can read
            continue
        # A module, a list or a function in the place of a type says nothing.
        if hint is Any or inspect.isclass(hint) or get_origin(hint) is not None:
            hints[name] = hint
    return hints
