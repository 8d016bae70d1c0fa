"""Check the components that a config names against their signatures, and build them.

This is the second pass over the user's input. The constructor's signature is the schema: any
argument that a target accepts may be set, whether or not a YAML file mentions it, and anything
else is refused. One walk does both: `check` reports all mistakes and calls nothing, `build` calls
each target, and a mistake ends it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from src.kindling.config.allowed import (
    ELSEWHERE,
    GIVEN,
    KINDS,
    NESTED,
    OF_SPEC,
    OF_TRAINER,
    PASSED_LATER,
)
from src.kindling.config.annotations import element, expected_part, takes_config, validate
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import TRUST, InputError, did_you_mean
from src.kindling.config.habits import translate
from src.kindling.config.references import Unresolved, resolve
from src.kindling.config.targets import accepts_any, find, load, parameters
from src.kindling.config.values import Config, Values, get

__all__ = ["KINDS", "Values", "build", "check", "resolve", "values"]

OPTIONAL = ("data", "net", "finetune")
NAMED = ("callbacks", "logger")  # sections of several named components
OF_TRAINED = ("data", "net", "task", "trainer")  # the sections that evaluation builds
DIRECTIVES = ("_target_", "_partial_", "_recursive_")
# A scheduler's arguments that follow from the length of the training and from the monitored metric.
OF_SCHEDULE = ("total_steps", "T_max", "mode")
# Names of components become names of modules, which torch.fx and torch.export write into code
# that they run.
NAME = re.compile(r"[\w ./:+-]+")
EXTRAS = ("wandb", "mlflow")  # of the loggers, by their keys


def values(config: Config) -> Values:
    """The plain values with their defaults: `num_threads` at most 8 cores, and 1 with a GPU."""
    import torch

    resolved = resolve(config)
    filled = Values(**{key: resolved[key] for key in Values.__annotations__ if key in resolved})
    if filled.num_threads is None:
        filled.num_threads = 1 if torch.cuda.is_available() else min(usable_cores(), 8)
    return filled


def check(config: Config, sections: Sequence[str] | None = None, trained: bool = False) -> None:
    """Check sections against the signatures that they name.

    Args:
        config: the config.
        sections: those that are going to be built; by default, those that a command builds.
        trained: whether it is a run's, so that weights come from its checkpoint.

    Raises:
        InputError: with one line for each wrong target, and unknown, mistyped or missing argument.
    """
    lines: list[str] = []

    def report(key: str, text: str) -> None:
        lines.append(f"{key}: {text} ({config.origin(key)})")

    sections = sections or (OF_TRAINED if trained else tuple(KINDS))
    resolved = resolve(config, report=report)
    walk = _Walk(config, report, trained)
    for key, annotation in get_type_hints(Values, include_extras=True).items():
        if key in resolved:
            walk.value(resolved[key], key, annotation, {})
    for key, node in _components(resolved, sections):
        given = dict.fromkeys(GIVEN.get(key.partition(".")[0], ()))
        if resolved.get("net") is None:
            given.pop("net", None)
        walk.component(node, key, given)
    if lines:
        raise InputError(lines)


def build(config: Config, key: str, data: Any = None, **given: Any) -> Any:
    """Build the component under a dotted key, such as `net` or `callbacks.early_stopping`.

    Args:
        config: a config that `check` has accepted.
        key: the component's.
        data: the data module, set up, whose attributes replace `${data.…}` in the config.
        given: arguments offered by name, where the component accepts them; a `spec`, `in_shape` and
            `num_outputs` also to those within it. A `spec` also replaces `${spec.…}` in the config.

    Raises:
        InputError: for the first mistake, and where a library's constructor refuses the values.
    """
    node = get(resolve(config, given.get("spec"), data=data), key)
    return _Walk(config, config.fail, build=True).component(node, key, given)


@dataclass
class _Walk:
    """A walk over components and their arguments, which checks them, and may build them."""

    config: Config
    fail: Callable[[str, str], Any]  # takes the key and the text of each mistake
    trained: bool = True  # weights come from a checkpoint
    build: bool = False

    def component(
        self, node: Any, key: str, given: Mapping[str, Any], annotation: Any = None
    ) -> Any:
        """Check a component, and build it; `given` are the arguments that it gets by name."""
        if key == "trainer" and isinstance(node, dict | None):
            node = {"_target_": KINDS["trainer"], **(node or {})}
        if isinstance(node, Unresolved):
            return None
        if not isinstance(node, dict) or "_target_" not in node:
            expected = "named parts, each with its" if key in NAMED else "a part with a"
            found = "null" if node is None else repr(node)
            remedy = "; set _target_ and the arguments beside it" if isinstance(node, dict) else ""
            return self.fail(key, f"expected {expected} '_target_', got {found}{remedy}")
        classes, makes_partial, positional = expected_part(annotation)
        try:
            nested: tuple[str, ...] = OF_TRAINER if key.startswith("trainer.") else NESTED
            if _is_section(key):
                classes, nested = (load(KINDS[key.partition(".")[0]]),), ()
            target = find(node["_target_"], classes, nested, self.config.trusted)
        except ValueError as error:
            return self.fail(f"{key}._target_", str(error))
        accepted = parameters(target)
        own = {name: given[name] for name in accepted if name in given}
        if not {"monitor", "mode"} <= accepted.keys():  # a mode of something else
            own = {name: own[name] for name in own if name not in ("monitor", "mode")}
        annotations = _annotations(node, accepted)
        arguments = {
            name: self.value(node[name], f"{key}.{name}", annotations[name], given)
            for name in node
            if name not in DIRECTIVES and node[name] != "???"
        }
        later = [*list(accepted)[:positional], *(OF_SCHEDULE if makes_partial else ())]
        filled = accepted if node.get("_partial_") else {*node, *own, *later}
        self.check_names(target, node, key, filled)
        if not self.build:
            return None
        if "weights_backbone" in accepted:
            arguments.setdefault("weights_backbone", None)
        if node.get("_partial_", makes_partial) and not _is_section(key):
            return functools.partial(target, **arguments)
        return self.call(target, {**own, **arguments}, key)

    def check_names(
        self, target: Any, node: Mapping[str, Any], key: str, filled: Collection[str]
    ) -> None:
        """Check that a target takes a node's arguments, and that none is missing."""
        accepted, title = parameters(target), target.__name__
        for name in node:
            place = f"{key}.{name}"
            if place in ELSEWHERE:
                self.fail(place, f"not set here: {ELSEWHERE[place]}")
            elif name in ("_partial_", "_recursive_"):
                self.value(node[name], place, bool, {})
                if name == "_partial_" and _is_section(key):
                    self.fail(place, "only an argument can be a partial; remove it")
            elif name not in accepted and name != "_target_" and not accepts_any(target):
                known = f" (it accepts: {', '.join(accepted) or 'none'})"
                habit = translate(str(name), node[name]) if key == "trainer" else ""
                hint = habit or did_you_mean(str(name), accepted) or known
                self.fail(place, f"{title} has no argument '{name}'{hint}")
        for name, parameter in accepted.items():
            place, default = f"{key}.{name}", parameter.default
            if name == "weights_backbone" and not (default is None or name in node or self.trained):
                line = "downloads weights unless it is set"
                self.fail(place, f"{title} {line}; add {place}=null")
            if node.get(name) == "???" or (default is parameter.empty and name not in filled):
                self.fail(place, f"{title} needs it, and it is not set; {_remedy(key, name)}")

    def value(self, value: Any, key: str, annotation: Any, given: Mapping[str, Any]) -> Any:
        """Check an argument's value, and convert it to what the annotation asks for."""
        if isinstance(value, Unresolved):
            written = get(self.config.values, key)
            return self.build and self.fail(key, f"{written}: the data is not loaded here")
        if takes_config(annotation) and isinstance(value, dict | list):
            if not self.config.trusted and "_target_" in str(value):
                return self.fail(key, f"its parts are not checked; {TRUST}")
            return OmegaConf.create(value, flags={"allow_objects": True})
        if isinstance(value, dict) and "_target_" in value:
            within = {name: given[name] for name in OF_SPEC if name in given}
            return self.component(value, key, within, annotation)
        if isinstance(value, dict | list):
            items = value if isinstance(value, dict) else dict(enumerate(value))
            if any(map(_is_component, items.values())):
                built = self.items(items, key, element(annotation), given)
                return built if isinstance(value, dict) else [*built.values()]
        elif not isinstance(value, str | int | float | tuple | None):
            return value  # an attribute of the data may be anything
        try:
            return validate(value, annotation)
        except ValueError as error:
            expected, written = str(error), get(self.config.values, key)
            if "${" in str(written):  # the environment's values may be secret
                expected, value = expected.partition(" in the place of ")[0], written
            return self.fail(key, f"expected {expected}, got {value!r}")

    def items(
        self, items: Mapping[Any, Any], key: str, annotation: Any, given: Mapping[str, Any]
    ) -> dict[Any, Any]:
        """Check and convert the items of a mapping or a list, some of which are parts."""
        for name in items:
            if not NAME.fullmatch(str(name)):
                line = "cannot name a part; use letters, digits, spaces and ._:/+-"
                self.fail(key, f"{name!r} {line}")
        return {k: self.value(v, f"{key}.{k}", annotation, given) for k, v in items.items()}

    def call(self, target: Any, arguments: dict[str, Any], key: str) -> Any:
        """Call a target; a library's refusal of its arguments becomes an `InputError`."""
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        refusals: tuple[type[Exception], ...] = (ValueError, MisconfigurationException, ImportError)
        # In a module of this repository, a TypeError is more likely a mistake there.
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
            line = f"{key}: {target.__name__}: {message} ({self.config.origin(key)})"
            raise InputError(line) from error


def _components(resolved: Mapping[str, Any], sections: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The components of sections, by their keys."""
    for section in sections:
        node = resolved.get(section)
        if section in NAMED and isinstance(node, dict | None):
            for name, part in (node or {}).items():
                if part is not None:  # null switches off what a file has switched on
                    yield f"{section}.{name}", part
        elif node is not None or section not in OPTIONAL:
            yield section, node


def _annotations(node: Mapping[str, Any], accepted: Mapping[str, Parameter]) -> dict[str, Any]:
    """What each argument of a node takes; below `_recursive_: false`, parts are left to Hydra."""
    found = {name: accepted[name].annotation if name in accepted else Any for name in node}
    if node.get("_recursive_") is False:
        found |= {name: DictConfig for name in node if isinstance(node[name], dict)}
    return found


def _remedy(key: str, name: str) -> str:
    """How to set a missing argument of a component."""
    if name in PASSED_LATER and not _is_section(key):
        return f"add {key}._partial_=true, which leaves it to the caller"
    return "add a section net" if (key, name) == ("task", "net") else f"add {key}.{name}=…"


def _is_section(key: str) -> bool:
    """Whether a dotted key is a section or a named component of one, not an argument."""
    section, _, rest = key.partition(".")
    return section in KINDS and "." not in (rest if section in NAMED else key)


def _is_component(value: Any) -> bool:
    """Whether a value has a `_target_`, or is not known yet."""
    return isinstance(value, Unresolved) or (isinstance(value, dict) and "_target_" in value)
