"""The arguments that a class or function accepts by name, and what calling it makes."""

from __future__ import annotations

import inspect
import types
from typing import Any, get_origin, get_type_hints


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments that a class or function accepts by name, annotations resolved.

    `**kwargs` are followed to where they are passed on: from a class to its bases, and from a
    function (such as torchvision's `resnet18`) to the class that it returns.
    """
    return dict(_signature(target)[0])


def accepts_any(target: Any) -> bool:
    """Whether a class or function has `**kwargs` that lead to no other signature."""
    return _signature(target)[1]


def _signature(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    if not inspect.isclass(target):
        found, is_open = _own_parameters(target)
        result = returned(target)
        if is_open and inspect.isclass(result):
            followed, is_open = _signature(result)
            optional = {name: p.replace(default=None) for name, p in followed.items()}
            found = {**optional, **found}
        return found, is_open
    inits = [cls.__dict__["__init__"] for cls in target.__mro__[:-1] if "__init__" in cls.__dict__]
    found, is_open = {}, False
    for number, init in enumerate(inits or [target.__new__]):
        own, passes_on = _own_parameters(init, skip_self=True)
        if number:  # a base's arguments, which the class may fill in by itself
            for name, p in own.items():
                own[name] = p if p.default is not p.empty else p.replace(default=None)
        is_open = passes_on or (is_open and not own)
        found = {**own, **found}
        if not passes_on:
            break
    return found, is_open


def _own_parameters(
    function: Any, skip_self: bool = False
) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters of one function that can be passed by name, and whether it has `**kwargs`."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return {}, False
    hints = resolve_annotations(function)
    found = list(signature.parameters.values())[1 if skip_self else 0 :]
    named = {
        p.name: p.replace(annotation=hints.get(p.name, Any))
        for p in found
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def returned(target: Any) -> Any:
    """What calling a target makes: the class itself, or a function's return annotation."""
    return target if inspect.isclass(target) else resolve_annotations(target).get("return")


def resolve_annotations(function: Any) -> dict[str, Any]:
    """A function's annotations; what cannot be resolved, or is no type, is left out."""
    try:
        annotations = dict(function.__annotations__)
    except Exception:
        return {}
    hints: dict[str, Any] = {}
    for name, annotation in annotations.items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            hint = get_type_hints(one, globalns=scope)[name]
        except Exception:  # an annotation that only its author's type checker can read
            continue
        # A module, a list or a function in the place of a type says nothing.
        if hint is Any or inspect.isclass(hint) or get_origin(hint) is not None:
            hints[name] = hint
    return hints
