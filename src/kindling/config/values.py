"""The values of one experiment, access to them by dotted keys, and the types of the plain ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn

from annotated_types import Interval
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.kindling.config.errors import InputError

COMMAND_LINE = "command line"


@dataclass
class Values:
    """The top-level keys that are plain values, with their types and defaults.

    Attributes:
        name: a label for the run.
        tags: labels for the run.
        seed: of every random draw.
        num_threads: PyTorch's CPU threads; they change results and are therefore recorded. None
            uses the cores, at most 8, and 1 with a GPU.
        compile: whether torch.compile compiles the net; None does for long trainings on a GPU.
        channels_last: whether images have this memory format; None uses it for convolutional nets.
        checkpoint_minutes: minutes between the checkpoints within an epoch.
        max_nonfinite_steps: batches with a NaN/Inf loss or gradient that are skipped.
        max_fast_forward: batches of a stream without `state_dict` that are read again to resume
            within an epoch; beyond them the epoch starts again. None sets no limit.
        monitor: the metric that picks the best checkpoint; None uses the task's, else `val/loss`,
            else the only metric of validation.
        mode: whether less or more of the monitored metric is better; None follows from the metric.
    """

    name: str | None = None
    tags: list[str] = field(default_factory=list)
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    num_threads: Annotated[int, Interval(ge=1, le=1024)] | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    checkpoint_minutes: float = 10.0
    max_nonfinite_steps: int = 0
    max_fast_forward: Annotated[int, Interval(ge=0)] | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None


VALUES = tuple(setting.name for setting in dataclasses.fields(Values))


@dataclass(frozen=True)
class Config:
    """One experiment."""

    name: str  # of the file without `.yaml`; the runs are in `logs/<name>/`
    values: dict[str, Any]  # nested dicts and lists, references such as `${oc.env:HOME}` unresolved
    origins: dict[str, str] = field(default_factory=dict)  # by dotted key: a file, or COMMAND_LINE
    trusted: bool = True  # it may run code; not that of a run from elsewhere (`runs.run.is_own`)

    def origin(self, key: str) -> str:
        """Where a dotted key (or the nearest section around it) was set."""
        while key and key not in self.origins:
            inside = [origin for k, origin in self.origins.items() if f"{k}.".startswith(f"{key}.")]
            if inside:
                return inside[-1]
            key = key.rpartition(".")[0]
        return self.origins.get(key, f"configs/{self.name}.yaml")

    def fail(self, key: str, text: str) -> NoReturn:
        raise InputError(f"{key}: {text} ({self.origin(key)})")

    def replaced(self, changes: Mapping[str, Any], origin: str = COMMAND_LINE) -> Config:
        """A copy with the given dotted keys set. A new `_target_` replaces its whole section."""
        origins, errors = dict(self.origins), list[str]()
        tree = OmegaConf.create(self.values, flags={"allow_objects": True})
        # Targets first, the outer before the inner, so that the order does not matter.
        targets = sorted((key for key in changes if key.endswith("._target_")), key=len)
        for key in dict.fromkeys([*targets, *changes]):
            place, value = key, changes[key]
            try:
                if key in targets and OmegaConf.select(tree, key) == value:
                    continue
                if key in targets:
                    place, value = key.removesuffix("._target_"), {"_target_": value}
                OmegaConf.update(tree, place, value, merge=False, force_add=True)
            except (OmegaConfBaseException, ValueError, TypeError):
                errors.append(f"{key}: expected the number of an item of the list ({origin})")
            forget(origins, place)
            origins[key] = origin
        if errors:
            raise InputError(errors)
        return dataclasses.replace(self, values=dict(to_plain(tree)), origins=origins)


def to_plain(tree: Any) -> Any:
    """An OmegaConf node as dicts and lists, its references unresolved."""
    return OmegaConf.to_container(tree, resolve=False)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """`{"net": {"width": 8}}` as `{"net.width": 8}`; lists keep their place as a number."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = dict(enumerate(values)).items()
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


def map_text(
    value: Any, function: Callable[[str, tuple[Any, ...]], Any], steps: tuple[Any, ...] = ()
) -> Any:
    """A copy of nested values in which each text is replaced."""
    if isinstance(value, dict):
        return {name: map_text(item, function, (*steps, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [map_text(item, function, (*steps, i)) for i, item in enumerate(value)]
    return function(value, steps) if isinstance(value, str) else value


def forget(origins: dict[str, str], key: str) -> None:
    """Remove the origins of a key, of everything below it, and of a value that it replaces."""
    for other in list(origins):
        if f"{other}.".startswith(f"{key}.") or key.startswith(f"{other}."):
            del origins[other]
