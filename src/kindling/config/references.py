"""Resolve the `${…}` references of a config: to other keys, to the environment, to the data."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from src.kindling.config.errors import TRUST, InputError, did_you_mean, from_environment
from src.kindling.config.values import Config, Values, get, map_text

# `${data.vocab_size}`, `${data.spec.num_outputs}` or, shorter, `${spec.num_outputs}`.
OF_DATA = re.compile(r"\$\{(data|spec)\.(\w+(?:\.\w+)*)\}")
OF_DATA_IN = ("net", "task")
ELSEWHERE = "attributes of the data are only known in the sections net and task"
LATER = "\0later"
MOST_REFERENCES = 15  # of a config written elsewhere: 40 could make a text of 2**40 letters
STRANGERS = "written elsewhere"  # a flag of OmegaConf's trees
Steps = tuple[Any, ...]


def _read_environment(name: str, *default: Any, _root_: Any) -> str | None:
    """`${oc.env:NAME,default}` as in OmegaConf; for a config from elsewhere only the default."""
    if _root_._get_flag(STRANGERS):
        if default:
            return None if default[0] is None else str(default[0])
        raise PermissionError(f"a config written elsewhere reads no environment; {TRUST}")
    from_environment.add(name)
    return oc.env(name, *default)


OmegaConf.register_new_resolver("oc.env", _read_environment, replace=True)


class Unresolved:
    """A value that depends on the data, or that has been reported as wrong already."""


def resolve(
    config: Config,
    spec: Any = None,
    report: Callable[[str, str], object] | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """The config's values with their references (`${oc.env:HOME}`, `${data.vocab_size}`) replaced.

    Args:
        config: the config.
        spec: of the data, where only that is known.
        report: takes the key and the text of each error, which is raised otherwise.
        data: the data module, set up. Without it, a reference to the data is `Unresolved`.

    Raises:
        InputError: without a `report`, for the first reference that cannot be resolved.
    """
    count = OF_DATA.sub("", str(config.values)).count("${")
    if count > MOST_REFERENCES and not config.trusted:
        raise InputError(f"config: {count} references, more than {MOST_REFERENCES}; {TRUST}")
    resolver = _Resolver(config, spec, report or config.fail, data)
    resolver.inserted = map_text(config.values, resolver.insert)
    return dict(map_text(resolver.inserted, resolver.follow))


@dataclass
class _Resolver:
    config: Config
    spec: Any
    report: Callable[[str, str], object]
    data: Any
    inserted: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def tree(self) -> Any:
        everything = {**asdict(Values()), **self.inserted}
        flags = {"allow_objects": True, STRANGERS: not self.config.trusted}
        return OmegaConf.create(everything, flags=flags)

    def fail(self, steps: Steps, text: object) -> Unresolved:
        key = ".".join(map(str, steps))
        self.report(key, f"{get(self.config.values, key)}: {text}")
        return Unresolved()

    def insert(self, text: str, steps: Steps) -> Any:
        """Replace references to attributes of the data; OmegaConf finds what the config sets."""

        def found(match: re.Match[str]) -> Any:
            if match[1] == "data" and get(self.config.values, f"data.{match[2]}") is not None:
                return match[0]
            if steps[0] not in OF_DATA_IN:
                raise LookupError(ELSEWHERE)
            return _attribute(match[1], match[2], self.spec, self.data)

        try:
            if match := OF_DATA.fullmatch(text):
                return found(match)
            return OF_DATA.sub(lambda match: str(found(match)), text)
        except LookupError as error:
            return self.fail(steps, error.args[0])

    def follow(self, text: str, steps: Steps) -> Any:
        """Replace the other references, by OmegaConf."""
        value: Any = text
        if "${" in text:
            try:
                value = functools.reduce(operator.getitem, steps, self.tree)
                if OmegaConf.is_config(value):
                    return OmegaConf.to_container(value, resolve=True)
            except OmegaConfBaseException as error:
                line = str(error).partition("\n")[0].rpartition("interpolation: ")[2]
                return self.fail(steps, line.strip('"'))
        if not isinstance(value, str) or LATER not in value:
            return value
        return Unresolved() if steps[0] in OF_DATA_IN else self.fail(steps, ELSEWHERE)


def _attribute(root: str, path: str, spec: Any, data: Any) -> Any:
    """An attribute of the data, `LATER` without the data, or LookupError with the reason."""
    steps = path.split(".") if root == "data" else ["spec", *path.split(".")]
    found, owner = data, "the data"
    if data is None and steps[0] == "spec" and spec is not None:
        found, owner, steps = spec, "the data's spec", steps[1:]
    if found is None:
        return LATER
    for step in steps:
        if step.startswith("_") or not hasattr(found, step):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise LookupError(f"{owner} has no '{step}'{did_you_mean(step, names)}")
        found, owner = getattr(found, step), f"{owner}'s {step}"
    scalar = getattr(found, "shape", None) == () and hasattr(found, "item")
    return found.item() if scalar else found  # NumPy's and PyTorch's numbers
