"""Check and convert YAML values by type annotations, with pydantic, and describe annotations.

An annotation may name types that YAML cannot write (`int | Tensor`). What can be written is checked
strictly (`'fast'` is not a number, `true` is not 1), lists become the tuples and tensors that a
signature asks for, and a missing annotation accepts anything.
"""

from __future__ import annotations

import collections.abc
import datetime
import enum
import functools
import inspect
import json
import numbers
import operator
import pathlib
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

_SCALARS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    pathlib.Path: "a path",
    datetime.timedelta: "a duration",
    numbers.Number: "a number",
}
_CONTAINERS = {
    list: list,
    tuple: tuple,
    dict: dict,
    set: list,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Mapping: dict,
}


def validate(value: Any, annotation: Any) -> Any:
    """The value, converted to what the annotation asks for.

    Raises:
        ValueError: when the annotation does not allow the value.
    """
    readable = _readable(annotation)
    if readable is Any:
        return value
    if readable is _NOTHING:
        raise ValueError
    try:
        text = json.dumps(value)
    except TypeError:  # of no type that YAML can write
        raise ValueError(f"{type(value).__name__} is no plain value") from None
    try:
        converted = _adapter(readable).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(str(error)) from None
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return value
    if isinstance(converted, list) and _tensor_in(annotation):
        import torch

        return torch.tensor(converted, dtype=torch.float32)
    return converted


def describe(annotation: Any) -> str:
    """The annotation in words: `a whole number or null`, `one of 'min', 'max'`."""
    readable = _readable(annotation)
    if readable is _NOTHING:
        classes, _, _ = expected_part(annotation)
        names = " or ".join(kind.__name__ for kind in classes) or "an object"
        return f"a part ({names}) with a '_target_'"
    return " or ".join(dict.fromkeys(_words(readable)))


def expected_part(annotation: Any) -> tuple[tuple[type, ...], bool, int]:
    """What a node with a `_target_` has to make here.

    Returns:
        The classes it may be of (none where the annotation names none); whether it becomes a
        partial, because the annotation is a callable that makes the class; and how many arguments
        the partial's caller gives by position.
    """
    classes: list[type] = []
    for member in _members(annotation):
        origin = get_origin(member) or member
        if origin is collections.abc.Callable and not classes:
            given, result = get_args(member) or (..., Any)
            result = get_origin(result) or result
            count = len(given) if isinstance(given, list) else 1
            return ((result,) if _is_part(result) else ()), True, count
        if _is_part(origin):
            classes.append(origin)
    return tuple(classes), False, 0


def _is_part(annotation: Any) -> bool:
    """Whether an annotation names a class whose objects only a part can make."""
    written = annotation in _SCALARS or annotation in _CONTAINERS
    return inspect.isclass(annotation) and annotation not in (Any, object, type) and not written


def element(annotation: Any) -> Any:
    """The annotation of the items of a list, or of the values of a mapping."""
    for member in _members(annotation):
        if get_origin(member) in _CONTAINERS:
            return next((arg for arg in reversed(get_args(member)) if arg is not ...), Any)
    return Any


# What YAML can write where a list or a mapping of parts is expected: none.
_NO_LIST = Annotated[list[Any], Field(max_length=0)]
_NO_MAPPING = Annotated[dict[str, Any], Field(max_length=0)]


class _Nothing:
    """In the place of an annotation: no YAML value fits it, only a part does."""


_NOTHING = _Nothing


def _members(annotation: Any) -> tuple[Any, ...]:
    return (
        get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType)
        else (annotation,)
    )


def _readable(annotation: Any) -> Any:
    """The annotation without the types that YAML cannot write."""
    origin, args = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if kind in (Union, types.UnionType):
        return _readable_union(args)
    if kind in _CONTAINERS:
        return _readable_container(_CONTAINERS[kind], args)
    if kind is Literal or annotation in _SCALARS:
        return float if annotation is numbers.Number else annotation
    if annotation in (Any, object, inspect.Parameter.empty):
        return Any
    if _is_tensor(annotation):
        return list[Any]
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return annotation
    return _NOTHING if inspect.isclass(kind) or kind is collections.abc.Callable else Any


def _readable_union(args: tuple[Any, ...]) -> Any:
    # A learning rate may be a tensor; written in YAML it is a number, and not a list.
    plain = any(arg in (int, float, str, bool) for arg in args)
    members = [_readable(arg) for arg in args if not (plain and _is_tensor(arg))]
    members = [member for member in members if member is not _NOTHING]
    if Any in members:
        return Any
    return functools.reduce(operator.or_, members) if members else _NOTHING


def _readable_container(base: Any, args: tuple[Any, ...]) -> Any:
    inner = tuple(... if arg is ... else _readable(arg) for arg in args)
    if _NOTHING in inner:  # a list of components, which may be empty
        return _NO_LIST if base is list else _NO_MAPPING
    return base[inner if len(inner) > 1 else inner[0]] if inner else base


def _is_tensor(annotation: Any) -> bool:
    return (
        inspect.isclass(annotation)
        and annotation.__module__ == "torch"
        and annotation.__name__ == "Tensor"
    )


def _tensor_in(annotation: Any) -> bool:
    members = _members(annotation)
    return any(map(_is_tensor, members)) and not any(get_origin(m) in _CONTAINERS for m in members)


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def _words(annotation: Any) -> list[str]:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return [_SCALARS[annotation]]
    if origin in (Union, types.UnionType):
        names = [name for arg in args if get_origin(arg) is Literal for name in get_args(arg)]
        others = sorted(
            (arg for arg in args if get_origin(arg) is not Literal),
            key=lambda arg: arg is type(None),
        )
        merged = [Literal[tuple(names)]] if names else []
        return [word for arg in [*merged, *others] for word in _words(arg)]
    if origin is Literal:
        return ["one of " + ", ".join(map(repr, args))] if len(args) > 1 else [repr(args[0])]
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return ["one of " + ", ".join(repr(member.value) for member in annotation)]
    base = origin or annotation
    if annotation in (_NO_LIST, _NO_MAPPING):
        return ["parts, each with a '_target_'"]
    if base is dict:
        return ["a mapping"]
    if base is tuple and args and ... not in args:
        return [f"a list of {len(args)}: [{', '.join(' or '.join(_words(arg)) for arg in args)}]"]
    if base in (list, tuple):
        items = _words(args[0]) if args and args[0] is not Any else ["value"]
        nouns = [item.removeprefix("a ") for item in items]
        plural = [
            f"{noun}s" if noun == "whole number" or " " not in noun else noun for noun in nouns
        ]
        return ["a list of " + " or ".join(plural)]
    return ["a value"]
