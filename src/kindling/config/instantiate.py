"""Build the objects that a config names: find each `_target_` and call it with its arguments."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from src.kindling.config.annotations import element, validate
from src.kindling.config.check import check, check_training
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.config.references import Unresolved, resolve
from src.kindling.config.sections import (
    DIRECTIVES,
    KINDS,
    OF_SPEC,
    check_name,
    find_target,
    holds_components,
    is_partial,
    is_section,
)
from src.kindling.config.signatures import parameters
from src.kindling.config.values import Config, Values, get

__all__ = ["KINDS", "Values", "build", "check", "check_training", "resolve", "values"]

EXTRAS = ("wandb", "mlflow")  # of the loggers, by their keys


def values(config: Config) -> Values:
    """The config's plain values, their defaults filled in.

    The default of `num_threads` is the number of cores, at most 8; with a GPU, it is 1.
    """
    import torch

    resolved = resolve(config)
    filled = Values(**{key: resolved[key] for key in Values.__annotations__ if key in resolved})
    if filled.num_threads is None:
        filled.num_threads = 1 if torch.cuda.is_available() else min(usable_cores(), 8)
    return filled


def build(config: Config, key: str, data: Any = None, **given: Any) -> Any:
    """Build the component under a dotted key.

    Args:
        config: a config that `check` has accepted.
        key: `net`, or `callbacks.early_stopping`.
        data: the data module, set up, whose attributes replace `${data.…}` in the config.
        given: arguments offered by name to the component, and to those within it, where they accept
            them. A `spec` among them also replaces `${spec.…}` in the config.

    Raises:
        InputError: where a library's constructor refuses the values.
    """
    node = get(resolve(config, given.get("spec"), data=data), key)
    if key == "trainer":
        node = {"_target_": KINDS["trainer"], **(node or {})}
    return _build_component(node, key, given, config)


def _build_component(
    node: Any, key: str, given: Mapping[str, Any], config: Config, annotation: Any = None
) -> Any:
    try:
        target = find_target(node, key, annotation)
    except ValueError as error:
        raise InputError(f"{key}._target_: {error} ({config.origin(key)})") from None
    accepted = parameters(target)
    arguments = {}
    for name, value in node.items():
        if name not in DIRECTIVES:
            argument = accepted[name].annotation if name in accepted else Any
            arguments[name] = _build_value(value, f"{key}.{name}", argument, given, config)
    if "weights_backbone" in accepted:
        # Never downloaded here: `check` asks for it, or a checkpoint has the weights.
        arguments.setdefault("weights_backbone", None)
    if is_partial(node, annotation) and not is_section(key):
        return functools.partial(target, **arguments)
    if not {"monitor", "mode"} <= accepted.keys():  # a mode of something else
        given = {name: value for name, value in given.items() if name not in ("monitor", "mode")}
    for name, parameter in accepted.items():
        if name in given:
            arguments.setdefault(name, given[name])
        elif parameter.default is parameter.empty and name not in arguments:
            line = f"{target.__name__} needs it, and it is not set; add {key}.{name}=…"
            raise InputError(f"{key}.{name}: {line} ({config.origin(key)})")
    return _call(target, arguments, key, config)


def _call(target: Any, arguments: dict[str, Any], key: str, config: Config) -> Any:
    """Call a target; a library's refusal of its arguments becomes an `InputError`."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    refusals: tuple[type[Exception], ...] = (ValueError, MisconfigurationException, ImportError)
    # In a module of this repository, a TypeError is more likely a mistake there than in the values.
    if not target.__module__.startswith("src."):
        refusals += (TypeError, RuntimeError, AssertionError)
    try:
        return target(**arguments)
    except refusals as error:
        message = str(error).partition("\n")[0]
        extra = key.rpartition(".")[2]
        if isinstance(error, ImportError) and extra in EXTRAS:
            message = f"{extra} is not installed: pip install -e '.[{extra}]'"
        if "No supported gpu backend" in message:
            message = "torch finds no GPU here; trainer=cpu does without"
        line = f"{key}: {target.__name__}: {message} ({config.origin(key)})"
        raise InputError(line) from error


def _build_value(
    value: Any, key: str, annotation: Any, given: Mapping[str, Any], config: Config
) -> Any:
    if isinstance(value, Unresolved):
        written = get(config.values, key)
        raise InputError(f"{key}: {written}: the data is not loaded here ({config.origin(key)})")
    if isinstance(value, dict) and "_target_" in value:
        within = {name: item for name, item in given.items() if name in OF_SPEC}
        return _build_component(value, key, within, config, annotation)
    if isinstance(value, dict | list) and holds_components(value):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        for name, _ in items:
            if line := check_name(name):
                raise InputError(f"{key}: {line} ({config.origin(key)})")
        inner = element(annotation)
        built = {k: _build_value(v, f"{key}.{k}", inner, given, config) for k, v in items}
        return built if isinstance(value, dict) else list(built.values())
    plain = isinstance(value, str | int | float | list | tuple | dict | None)
    return (
        validate(value, annotation) if plain else value
    )  # an attribute of the data may be anything
