"""Check and convert YAML values by type annotations, with pydantic.

An annotation may name types that YAML cannot write (`int | Tensor`). What can be written is checked
strictly (`'fast'` is not a number, `true` is not 1), lists become the tuples and tensors that a
signature asks for, and a missing annotation accepts anything.
"""

from __future__ import annotations

import collections.abc as abc
import enum
import functools
import inspect
import json
import numbers
import types
from argparse import Namespace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

CONTAINERS = (list, tuple, dict, abc.Sequence, abc.Iterable, abc.Collection, abc.Mapping)
# Types that pydantic does not read from JSON, or only lazily.
CONFIGS: dict[Any, type] = {DictConfig: dict, ListConfig: list}
SAME: dict[Any, type] = {
    numbers.Number: float,
    abc.Iterable: list,
    abc.Collection: list,
    **CONFIGS,
    Namespace: dict,
}
NOT_YAML = ("needs_python_object", "callable_type")
PART = '{"type": "part"}'  # in a JSON schema, in the place of a node with a `_target_`
# Plainer words than pydantic's, by its types of errors.
WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "missing": "more items",
    "too_long": "fewer items",
}


def validate(value: Any, annotation: Any) -> Any:
    """The value, converted to the annotation, or ValueError with the expectation."""
    if any(member in (Any, object) for member in _members(annotation)):
        return _with_attributes(value)
    if annotation is Namespace and isinstance(value, dict):
        return Namespace(**_with_attributes(value))
    try:
        adapter = _adapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return value
    try:
        return _convert(adapter, value)
    except ValidationError as error:
        raise ValueError(_expectation(error, value, annotation)) from None


def _convert(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        text = json.dumps(value)
    except TypeError:  # it holds objects: an attribute of the data, or a date of YAML
        return adapter.validate_python(value, strict=True)
    return adapter.validate_json(text, strict=True)


def _with_attributes(value: Any) -> Any:
    """Nested mappings whose items are attributes too, for code that expects a Namespace."""
    from lightning.fabric.utilities.data import AttributeDict

    if isinstance(value, dict):
        return AttributeDict({name: _with_attributes(item) for name, item in value.items()})
    return [_with_attributes(item) for item in value] if isinstance(value, list) else value


def json_schema(annotation: Any, part: dict[str, Any]) -> dict[str, Any]:
    """The values that `validate` accepts, as a JSON schema in draft-07.

    Args:
        annotation: the annotation; one that pydantic cannot read accepts anything.
        part: the schema of a node with a `_target_`.
    """
    try:
        schema = _adapter(annotation).json_schema(
            schema_generator=_Draft7, ref_template="#/definitions/{model}"
        )
    except (PydanticUserError, TypeError):
        return {}
    found: dict[str, Any] = json.loads(json.dumps(schema).replace(PART, json.dumps(part)))
    return found


class _Draft7(GenerateJsonSchema):
    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "part"}

    def callable_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "part"}

    def tuple_schema(self, schema: Any) -> dict[str, Any]:
        found = super().tuple_schema(schema)
        if "prefixItems" in found:  # of later drafts
            found["items"] = found.pop("prefixItems")
        return found


def _expectation(error: ValidationError, value: Any, annotation: Any) -> str:
    """Describe the values that an annotation allows: `a number or null`, `'min' or 'max'`."""
    words = []
    for detail in error.errors():
        if detail["type"] not in NOT_YAML:
            word = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            word = f"a number {word}" if word.startswith(("greater", "less")) else word
            item = detail["input"]
            place = f" in the place of {item!r}" if item != value else ""
            words.append(WORDS.get(detail["type"], word) + place)
    classes = " or ".join(kind.__name__ for kind in expected_part(annotation)[0])
    if not words:
        words = [f"a part ({classes}) with a '_target_'" if classes else "parts with a '_target_'"]
    if type(None) in _members(annotation):
        words.append("null")
    return " or ".join(dict.fromkeys(words))


def expected_part(annotation: Any) -> tuple[tuple[type, ...], bool, int]:
    """The classes that a node with a `_target_` may make for an annotation.

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


def takes_config(annotation: Any) -> bool:
    """Whether a class asks for an OmegaConf config, whose parts it builds itself, as by Hydra."""
    return any(member in CONFIGS for member in _members(annotation))


def element(annotation: Any) -> Any:
    """The annotation of the items of a list, or of the values of a mapping."""
    for member in _members(annotation):
        if get_origin(member) in CONTAINERS:
            return next((arg for arg in reversed(get_args(member)) if arg is not ...), Any)
    return Any


def _is_part(kind: Any) -> bool:
    """Whether only a part with a `_target_` makes an object of this class."""
    plain = ("builtins", "collections.abc", "datetime", "numbers", "pathlib")
    is_class = inspect.isclass(kind) and kind is not Any
    return is_class and kind.__module__ not in plain and kind not in SAME


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
    if _is_part(annotation) and not issubclass(annotation, enum.Enum):
        return _Part
    if origin in (None, Literal, Annotated, abc.Callable):
        return SAME.get(annotation, annotation)
    if {int, float, str, bool} & {*args} and origin in (Union, types.UnionType):
        # A learning rate may be a tensor; written in YAML it is a number, and not a list.
        args = tuple(arg for arg in args if getattr(arg, "__name__", "") != "Tensor")
    origin = Union if origin is types.UnionType else SAME.get(origin, origin)
    return origin[tuple(_readable(arg) for arg in args)]


class _Part:
    """In the place of a class: pydantic would build dataclasses and models without a `_target_`."""


def _to_tensor(values: list[Any]) -> Any:
    import torch

    try:
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError("a list of numbers") from None
