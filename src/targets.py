"""Targets: the classes and functions that a config names by a dotted path, and the arguments that they accept."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, get_type_hints

from src.errors import did_you_mean

# Where a `_target_` may come from. Add your own installed package here, and its classes work in every config.
ALLOWED = ("src", "torch", "torchvision", "lightning", "torchmetrics")


def locate(path: str) -> Any:
    """The class or function that a dotted path names.

    Raises:
        ValueError: with the reason, when there is none or it lies outside the allowed packages.
    """
    allowed = f"the allowed packages ({', '.join(ALLOWED)}); to allow another, add it to ALLOWED in src/targets.py"
    if not isinstance(path, str) or path.partition(".")[0] not in ALLOWED:
        raise ValueError(f"{path!r} is outside {allowed}")
    found = load(path)
    module = getattr(found, "__module__", None) or ""
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ValueError(f"{path!r} is {_a(type(found).__name__)}, not a class")
    if module.partition(".")[0] not in ALLOWED:
        raise ValueError(f"{path!r} comes from '{module}', outside {allowed}")
    return found


def load(path: str) -> Any:
    """What a dotted path names, wherever it lies; `locate` is for paths that a user gives.

    Raises:
        ValueError: with the step at which the path leads nowhere.
    """
    steps = path.split(".")
    found: Any = importlib.import_module(steps[0])
    for i, step in enumerate(steps[1:], 1):
        if hasattr(found, step):
            found = getattr(found, step)
            continue
        if not inspect.ismodule(found):
            raise ValueError(f"'{'.'.join(steps[:i])}' has no '{step}'{did_you_mean(step, dir(found))}")
        name = ".".join(steps[: i + 1])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not f"{found.__name__}.".startswith(f"{error.name}."):
                raise ValueError(f"importing '{name}' failed: {error}") from error
            inside = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
            names = [other for other in dir(found) if not other.startswith("_")] + inside
            raise ValueError(f"'{'.'.join(steps[:i])}' has no '{step}'{did_you_mean(step, names)}") from None
        except Exception as error:
            raise ValueError(f"importing '{name}' failed: {type(error).__name__}: {error}") from error
    return found


def check_kind(target: Any, path: str, kind: Any) -> None:
    """Refuse a target that makes something else than is expected; None expects any class, but no function.

    Raises:
        ValueError: naming both.
    """
    result = returned(target)
    if kind is None and inspect.isclass(target):
        return
    if not inspect.isclass(result) or (kind is not None and not issubclass(result, kind)):
        expected = _a(kind.__name__) if kind is not None else "a class"
        raise ValueError(f"'{path}' is no {expected.partition(' ')[2]}; {expected} is expected here")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments that a class or function accepts by name, annotations resolved.

    `**kwargs` are followed to where they are passed on: from a class to its bases, and from a function (such as
    torchvision's `resnet18`) to the class that it returns.
    """
    if inspect.isclass(target):
        chain = [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__]
        found: dict[str, inspect.Parameter] = {}
        for number, init in enumerate(chain or [target.__new__]):
            own, passes_on = _own_parameters(init, skip_self=True)
            if number:  # a base's: what the class fills in by itself need not be given
                own = {name: p if p.default is not p.empty else p.replace(default=None) for name, p in own.items()}
            found = {**own, **found}
            if not passes_on:
                break
        return found
    own, passes_on = _own_parameters(target, skip_self=False)
    result = returned(target)
    if passes_on and inspect.isclass(result):
        own = {**{name: p.replace(default=None) for name, p in parameters(result).items()}, **own}
    return own


def _own_parameters(function: Any, skip_self: bool) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return {}, False
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation that only its author's type checker can read
        hints = {}
    found = list(signature.parameters.values())[1 if skip_self else 0 :]
    named = {
        p.name: p.replace(annotation=hints.get(p.name, Any))
        for p in found
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def returned(target: Any) -> Any:
    """What calling a target makes: the class itself, or the class that a function says it returns."""
    if inspect.isclass(target):
        return target
    try:
        return get_type_hints(target).get("return")
    except Exception:
        return None


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
