"""Resolve the `${…}` references of a config: to other keys, to the environment, to the data."""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.values import Config, Values, get

# `${data.vocab_size}`, `${data.spec.num_outputs}` or, shorter, `${spec.num_outputs}`.
OF_DATA = re.compile(r"\$\{(data|spec)\.(\w+(?:\.\w+)*)\}")
OF_DATA_IN = ("net", "task")
ELSEWHERE = "attributes of the data are only known in the sections net and task"


class Unresolved:
    """A value that depends on the data, or that has been reported as wrong already."""


UNRESOLVED = Unresolved()
_LATER = "\0later"


def resolve(
    config: Config,
    spec: Any = None,
    report: Callable[[str, str], None] | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """The config's values with their references (`${oc.env:HOME}`, `${data.vocab_size}`) replaced.

    Args:
        config: the config.
        spec: of the data, where only that is known.
        report: takes the key and the text of each error, which is raised otherwise.
        data: the data module, set up. Without it, a reference to the data is `UNRESOLVED`.

    Raises:
        InputError: without a `report`, for the first reference that cannot be resolved.
    """
    return _Resolver(config, spec, report, data).resolve()


class _Resolver:
    def __init__(
        self, config: Config, spec: Any, report: Callable[[str, str], None] | None, data: Any
    ) -> None:
        self.config, self.spec, self.report, self.data = config, spec, report, data
        self.values: dict[str, Any] = {}

    def resolve(self) -> dict[str, Any]:
        self.values = {key: self.insert(value, key) for key, value in self.config.values.items()}
        return {key: self.walk(value, (key,)) for key, value in self.values.items()}

    def fail(self, key: str, text: str) -> Unresolved:
        if self.report is None:
            raise InputError(f"{key}: {text} ({self.config.origin(key)})")
        self.report(key, text)
        return UNRESOLVED

    def insert(self, value: Any, key: str) -> Any:
        """A value with the attributes of the data in the place of its references to them."""
        if isinstance(value, dict):
            return {name: self.insert(item, f"{key}.{name}") for name, item in value.items()}
        if isinstance(value, list):
            return [self.insert(item, f"{key}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            if match := OF_DATA.fullmatch(value):
                return self.attribute(match, key)
            return OF_DATA.sub(lambda match: str(self.attribute(match, key)), value)
        except LookupError as error:
            return self.fail(key, f"{value}: {error.args[0]}")

    def attribute(self, match: re.Match[str], key: str) -> Any:
        """The attribute that a reference names; the reference itself where the config sets the key.

        Raises:
            LookupError: with the reason, when there is none.
        """
        root, path = match[1], match[2]
        if root == "data" and get(self.config.values, f"data.{path}") is not None:
            return match[0]
        if key.partition(".")[0] not in OF_DATA_IN:
            raise LookupError(ELSEWHERE)
        steps = path.split(".") if root == "data" else ["spec", *path.split(".")]
        found, owner = self.data, "the data"
        if found is None:
            if steps[0] != "spec" or self.spec is None:
                return _LATER
            found, owner, steps = self.spec, "the data's spec", steps[1:]
        for step in steps:
            names = [name for name in dir(found) if not name.startswith("_")]
            if step.startswith("_") or not hasattr(found, step):
                raise LookupError(f"{owner} has no '{step}'{did_you_mean(step, names)}")
            found = getattr(found, step)
            owner = f"{owner}'s {step}"
        scalar = getattr(found, "shape", None) == () and hasattr(found, "item")
        return found.item() if scalar else found  # NumPy's and PyTorch's numbers

    @functools.cached_property
    def tree(self) -> Any:
        # Made only where there is a reference: it takes 5 ms, ten times in a training.
        values = {**dataclasses.asdict(Values()), **self.values}
        return OmegaConf.create(values, flags={"allow_objects": True})

    def walk(self, value: Any, steps: tuple[Any, ...]) -> Any:
        """A value with the references that OmegaConf resolves replaced."""
        if isinstance(value, dict):
            return {name: self.walk(item, (*steps, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.walk(item, (*steps, i)) for i, item in enumerate(value)]
        key, written = ".".join(map(str, steps)), value
        if isinstance(value, str) and "${" in value:
            try:
                value = self.node(steps)
            except OmegaConfBaseException as error:
                message = str(error).partition("\n")[0].rpartition("interpolation: ")[2].strip('"')
                return self.fail(key, f"{value}: {message}")
        if not isinstance(value, str) or _LATER not in value:
            return value
        if steps[0] in OF_DATA_IN:
            return UNRESOLVED
        return self.fail(key, f"{written}: {ELSEWHERE}")

    def node(self, steps: tuple[Any, ...]) -> Any:
        found = functools.reduce(operator.getitem, steps, self.tree)
        if OmegaConf.is_config(found):
            return OmegaConf.to_container(found, resolve=True)
        return found
