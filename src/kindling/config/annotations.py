"""Check and convert YAML values by type annotations, with pydantic, and describe annotations.

An annotation may name types that YAML cannot write (`int | Tensor`). What can be written is checked
strictly (`'fast'` is not a number, `true` is not 1), lists become the tuples and tensors that a
signature asks for, and a missing annotation accepts anything.
"""

from __future__ import annotations

import collections.abc as abc
import functools
import inspect
import json
import numbers
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

CONTAINERS = (list, tuple, dict, abc.Sequence, abc.Iterable, abc.Collection, abc.Mapping)
# Types that pydantic does not read from JSON, or only lazily.
SAME = {numbers.Number: float, abc.Iterable: list, abc.Collection: list}
WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
    "path": "a path",
    "duration": "a duration",
}


def validate(value: Any, annotation: Any) -> Any:
    """The value, converted to what the annotation asks for.

    Raises:
        ValueError: when the annotation does not allow the value.
    """
    if any(member in (Any, object) for member in _members(annotation)):
        return value
    try:
        adapter = _adapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except (TypeError, RuntimeError) as error:  # not a plain value, or not a tensor
        raise ValueError(str(error)) from None


def describe(annotation: Any) -> str:
    """The annotation in words: `a whole number or null`, `one of 'min', 'max'`."""
    schema = _adapter(annotation).json_schema(schema_generator=_Schema)
    if words := _describe(schema, schema.get("$defs", {})):
        return words
    names = " or ".join(kind.__name__ for kind in expected_part(annotation)[0])
    return f"a part ({names or 'an object'}) with a '_target_'"


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
        if origin is abc.Callable and not classes:
            given, result = get_args(member) or (..., Any)
            result = get_origin(result) or result
            count = len(given) if isinstance(given, list) else 1
            return ((result,) if _is_part(result) else ()), True, count
        if _is_part(origin):
            classes.append(origin)
    return tuple(classes), False, 0


def element(annotation: Any) -> Any:
    """The annotation of the items of a list, or of the values of a mapping."""
    for member in _members(annotation):
        if get_origin(member) in CONTAINERS:
            return next((arg for arg in reversed(get_args(member)) if arg is not ...), Any)
    return Any


def _is_part(kind: Any) -> bool:
    """Whether only a part with a `_target_` makes an object of this class."""
    plain = ("builtins", "collections.abc", "datetime", "numbers", "pathlib")
    return inspect.isclass(kind) and kind is not Any and kind.__module__ not in plain


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    config = ConfigDict(arbitrary_types_allowed=True)
    return TypeAdapter(_readable(annotation), config=config)


def _readable(annotation: Any) -> Any:
    """The annotation in types that pydantic reads from JSON."""
    origin, args = get_origin(annotation), get_args(annotation)
    if getattr(annotation, "__module__", "") == "torch" and annotation.__name__ == "Tensor":
        return Annotated[list[Any], AfterValidator(_to_tensor)]
    if origin in (None, Literal, Annotated, abc.Callable):
        return SAME.get(annotation, annotation)
    if {int, float, str, bool} & {*args} and origin in (Union, types.UnionType):
        # A learning rate may be a tensor; written in YAML it is a number, and not a list.
        args = tuple(arg for arg in args if getattr(arg, "__name__", "") != "Tensor")
    origin = Union if origin is types.UnionType else SAME.get(origin, origin)
    return origin[tuple(_readable(arg) for arg in args)]


def _to_tensor(values: list[Any]) -> Any:
    import torch

    return torch.tensor(values, dtype=torch.float32)


class _Schema(GenerateJsonSchema):
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {"type": "part"}


def _describe(schema: dict[str, Any], defined: dict[str, Any]) -> str:
    """What a JSON schema allows, in words; empty where YAML cannot write it."""
    members = [
        defined.get(member.get("$ref", "").rpartition("/")[2], member)
        for member in schema.get("anyOf", [schema])
    ]
    choices = [
        repr(choice)
        for member in members
        for choice in member.get("enum", [member["const"]] if "const" in member else [])
    ]
    words = [("one of " if len(choices) > 1 else "") + ", ".join(choices)] if choices else []
    for member in members:
        kind = member.get("type")
        if "enum" in member or "const" in member or kind in ("part", "null"):
            continue
        if "prefixItems" in member:
            items = [_describe(item, defined) for item in member["prefixItems"]]
            words.append(f"a list of {len(items)}: [{', '.join(items)}]")
        elif kind == "array":
            item = _describe(member.get("items", {}), defined) or "a part with a '_target_'"
            words.append(f"a list (each item {item})" if member.get("items") else "a list")
        else:
            word = WORDS.get(member.get("format", kind), "a value")
            if "minimum" in member and "maximum" in member:
                word += f" from {member['minimum']} to {member['maximum']}"
            words.append(word)
    return " or ".join([*words, *(["null"] if {"type": "null"} in members else [])])
