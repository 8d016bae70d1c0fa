"""The values of one experiment, access to them by dotted keys, and the types of the plain ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from src.kindling.config.errors import InputError

COMMAND_LINE = "command line"


@dataclass
class Values:
    """The top-level keys that are plain values, with their types and defaults.

    Attributes:
        name, tags: the user's own labels for the run.
        seed: for initial weights, batch order and every other random draw.
        num_threads: PyTorch's CPU threads; they change results and are therefore recorded.
        compile: whether to compile the net; None compiles on a GPU where it pays.
        channels_last: the memory format; None uses it for convolutional nets.
        checkpoint_minutes: minutes between the checkpoints within an epoch.
        max_nonfinite_steps: the number of batches with a NaN/Inf loss or gradient to skip
            before the training ends.
        monitor: the metric that picks the best checkpoint, stops early and steers schedules and
            studies; None uses `val/loss`, or the only metric of validation.
        mode: whether less or more of it is better; None follows from the metric.
    """

    name: str | None = None
    tags: list[str] = field(default_factory=list)
    seed: int = 0
    num_threads: int | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    checkpoint_minutes: float = 10.0
    max_nonfinite_steps: int = 0
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None


VALUES = tuple(setting.name for setting in fields(Values))


@dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
        name: the experiment's file name without `.yaml`; its runs are in `logs/<name>/`.
        values: plain nested dicts and lists, references such as `${oc.env:HOME}` unresolved.
        origins: for each dotted key, the file that set it, or "command line".
    """

    name: str
    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where a dotted key (or the nearest section around it) was set."""
        while key:
            if key in self.origins:
                return self.origins[key]
            inside = [origin for k, origin in self.origins.items() if k.startswith(f"{key}.")]
            if inside:
                return inside[-1]
            key = key.rpartition(".")[0]
        return f"configs/{self.name}.yaml"

    def replaced(self, changes: Mapping[str, Any], origin: str = COMMAND_LINE) -> Config:
        """A copy with the given dotted keys set. A new `_target_` replaces its whole section."""
        values, origins = copy.deepcopy(self.values), dict(self.origins)
        errors: list[str] = []
        # Targets first, the outer before the inner, so that the order does not matter.
        targets = sorted((key for key in changes if key.endswith("._target_")), key=len)
        for key in [*targets, *(key for key in changes if key not in targets)]:
            section = key.removesuffix("._target_")
            if key in targets:
                old = get(values, section)
                if isinstance(old, dict) and old.get("_target_") == changes[key]:
                    continue
                _put(values, section, {}, errors)
                forget(origins, section)
            _put(values, key, changes[key], errors)
            forget(origins, key)
            origins[key] = origin
        if errors:
            raise InputError([f"{line} ({origin})" for line in errors])
        return Config(self.name, values, origins)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """`{"net": {"width": 8}}` as `{"net.width": 8}`; lists keep their place as a number."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(values, dict) and values:
        items = iter(values.items())
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = iter(enumerate(values))
    else:
        return {prefix: values} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def get(values: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for step in key.split("."):
        if isinstance(values, list) and step.isdigit() and int(step) < len(values):
            values = values[int(step)]
        elif isinstance(values, dict):
            values = values.get(step)
        else:
            return None
    return values


def _put(values: dict[str, Any], key: str, value: Any, errors: list[str]) -> None:
    """Set a dotted key in place, adding the sections on the way."""
    *steps, last = key.split(".")
    node: Any = values
    for depth, step in enumerate([*steps, last]):
        parent = ".".join(steps[:depth])
        place: Any = step
        if isinstance(node, list):
            if not step.isdigit() or int(step) >= len(node):
                errors.append(
                    f"{key}: {parent} is a list of {len(node)}; a number from 0 to "
                    f"{len(node) - 1} is expected in the place of '{step}'"
                )
                return
            place = int(step)
        elif not isinstance(node, dict):
            errors.append(f"{key}: {parent} is {node!r}, a value, and holds no '{step}'")
            return
        if depth == len(steps):
            node[place] = value
            return
        if isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
        node = node[place]


def forget(origins: dict[str, str], key: str) -> None:
    """Remove the origins of a key and of everything below it."""
    for other in [other for other in origins if f"{other}.".startswith(f"{key}.")]:
        del origins[other]
