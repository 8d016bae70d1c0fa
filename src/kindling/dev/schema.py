"""JSON schemas of the files in configs/, for editors and for pages that list each config key.

The constructors' signatures give types, defaults and allowed names, their docstrings the
descriptions. The schemas are in draft-07, which all versions of VS Code's YAML extension read.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from src.kindling.config.allowed import ELSEWHERE, KINDS, ROOMS
from src.kindling.config.annotations import element, expected_part, json_schema
from src.kindling.config.compose import CONFIGS, ROOT, compose, configs, groups
from src.kindling.config.errors import InputError
from src.kindling.config.instantiate import DIRECTIVES, NAMED, OPTIONAL
from src.kindling.config.targets import accepts_any, load, locate, parameters, returned
from src.kindling.config.values import Values
from src.kindling.studies.search_space import describe_space

Schema = dict[str, Any]
FOLDER = ROOT / ".vscode" / "schemas"
SECTIONS = {
    "data": "The data: a LightningDataModule. Left out, the task has loaders.",
    "net": "The net: a torch.nn.Module. Left out, the task builds one.",
    "task": "The task: a LightningModule with loss, optimizer and metrics.",
    "finetune": "Which parameters of a pretrained net are trained, and when.",
    "trainer": "Arguments of Lightning's Trainer.",
    "callbacks": "Lightning callbacks, each under a name; null removes one.",
    "logger": "Loggers beside TensorBoard and metrics.csv, each under a name; null removes one.",
}
DEFAULTS = "Where values come from first: an option of each group, or another file beside this one."
# `${seed}` refers to another key; `???` has to be set on the command line.
REFERENCE = {"$ref": "#/definitions/reference"}
# Modules whose classes are known, beside those in src/data, src/nets and src/tasks.
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torchvision.transforms.v2",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "src.kindling.data.augment",
    "src.kindling.nn.losses",
)
TARGET = re.compile(r"^[^#\n]*\b_target_: *([\w.]+)", re.MULTILINE)
ARGUMENTS = re.compile(r"^(?:Args|Arguments|Attributes):[ ]*\n((?:[ ]+.*\n|\n)+)", re.MULTILINE)
# `name (type): text`, and the text's further lines, which are indented.
ARGUMENT = re.compile(r"^\**(\w+(?:, \w+)*)(?: *\(.*?\))? *:(.*(?:\n(?: .*|$))*)", re.MULTILINE)


def write_schemas() -> list[Path]:
    """Write the schema of each kind of config file to .vscode/schemas/."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ("experiment", "space", *groups()):
        text = json.dumps(config_schema(name), indent=1, allow_nan=False)
        paths.append(FOLDER / f"{name}.json")
        paths[-1].write_text(text + "\n", encoding="utf-8")
    return paths


def config_schema(name: str = "experiment") -> Schema:
    """Describe a kind of config file.

    Args:
        name: `experiment` for configs/*.yaml, or a folder in configs/: `net`, `space`.

    Returns:
        A JSON schema. Its `properties` are the keys of the file. Its `definitions` describe each
        `_target_` by its dotted path: its `properties` are the arguments, with `description`,
        `default`, and `type` or `anyOf`; what has no default is filled in, or has to be set.

    Raises:
        InputError: when a class that a config names cannot be imported.
    """
    builder = _Builder()
    make = {"experiment": builder.experiment, "space": describe_space}
    try:
        schema = make[name]() if name in make else builder.option(name)
    except ValueError as error:  # of a module that cannot be imported
        raise InputError(f"schemas: {error}") from error
    draft = "http://json-schema.org/draft-07/schema#"
    return {"$schema": draft, "type": "object", **schema, "definitions": builder.definitions}


class _Builder:
    """Builds the schema of a kind of file, and the definitions that it refers to."""

    def __init__(self) -> None:
        reference = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
        self.definitions: dict[str, Schema] = {"reference": reference}

    def experiment(self) -> Schema:
        options = {group: {"enum": names} for group, names in groups().items()}
        option = {"type": "object", "properties": options, "additionalProperties": False}
        entries = {"anyOf": [option, {"enum": ["_self_", *configs()]}]}
        sections = {name: self.section(name) | {"description": SECTIONS[name]} for name in KINDS}
        keys = _describe_defaults(entries) | self.values() | sections
        rules = [self.option_chosen(group, name) for group in groups() for name in groups()[group]]
        return {"properties": keys, "additionalProperties": False, "allOf": rules}

    def option(self, group: str) -> Schema:
        """A file of a group, which begins with its `defaults`, or names its `_target_`."""
        own = _describe_defaults({"enum": ["_self_", *groups()[group]]})
        if group in NAMED:
            return self.section(group) | {"properties": own}
        if group == "trainer":
            return self.arguments(KINDS["trainer"], own)
        return self.dispatch(targets_of(load(KINDS[group])), own)

    def section(self, name: str) -> Schema:
        """A section of an experiment; for `callbacks` and `logger`, named parts."""
        if name == "trainer":
            return {"anyOf": [self.target(KINDS[name]), {"type": "null"}]}
        allowed = [self.part((load(KINDS[name]),)), REFERENCE]
        if name in (*OPTIONAL, *NAMED):
            allowed.append({"type": "null"})
        part = {"anyOf": allowed}
        named = {"type": ["object", "null"], "additionalProperties": part}
        return named if name in NAMED else part

    def option_chosen(self, group: str, option: str) -> Schema:
        """The rule for an experiment's section where `defaults` choose an option of its group."""
        entry = {"properties": {group: {"const": option}}, "required": [group]}
        chosen = {"properties": {"defaults": {"contains": entry}}, "required": ["defaults"]}
        values = compose("digits", [f"{group}='{option}'"]).values[group]  # 18 is text
        return {"if": chosen, "then": {"properties": {group: self.changes(values)}}}

    def changes(self, node: Mapping[str, Any]) -> Schema:
        """Changes to a part that has a `_target_` already, and to those within it."""
        inner = {k: self.changes(v) for k, v in node.items() if isinstance(v, dict)}
        rules: list[Schema] = [{"properties": inner}] if inner else []
        if "_target_" in node:
            rules.append(self.target(node["_target_"]))
        return {"if": {"required": ["_target_"]}, "else": {"allOf": rules}} if rules else {}

    def values(self) -> dict[str, Schema]:
        """The top-level keys that are plain values."""
        hints, about = get_type_hints(Values, include_extras=True), describe_arguments(Values)
        defaults = dataclasses.asdict(Values())
        return {key: self.value(hints[key], defaults[key], about.get(key)) for key in defaults}

    def part(self, kinds: tuple[type, ...]) -> Schema:
        """Refer to the definition of a node whose `_target_` makes one of these classes."""
        name = "_or_".join(kind.__name__ for kind in kinds)
        paths = targets_of(*kinds)
        if paths and name not in self.definitions:
            self.definitions[name] = {}  # classes of this kind may take others of it
            self.definitions[name] = self.dispatch(paths)
        return {"$ref": f"#/definitions/{name}"} if paths else {"type": "object"}

    def dispatch(self, paths: list[str], own: Mapping[str, Schema] | None = None) -> Schema:
        """A node that takes the arguments of its `_target_`, and some keys of its `own`."""
        rules = []
        for path in paths:
            named = {"properties": {"_target_": {"const": path}}, "required": ["_target_"]}
            taken = self.arguments(path, own) if own else self.target(path)
            rules.append({"if": named, "then": taken})
        names = {"_target_": {"anyOf": [{"enum": paths}, {"type": "string"}]}}
        return {"type": "object", "properties": names | {**(own or {})}, "allOf": rules}

    def target(self, path: str) -> Schema:
        """Refer to the definition of a target."""
        if path not in self.definitions:
            self.definitions[path] = {}
            self.definitions[path] = self.arguments(path)
        return {"$ref": f"#/definitions/{path}"}

    def arguments(self, path: str, own: Mapping[str, Schema] | None = None) -> Schema:
        """The arguments of a target, and some further keys."""
        target = locate(path)
        about, section = describe_arguments(target), "trainer" if path == KINDS["trainer"] else ""
        arguments = {
            name: self.value(parameter.annotation, parameter.default, about.get(name))
            for name, parameter in parameters(target).items()
            if f"{section}.{name}" not in ELSEWHERE
        }
        return {
            "type": "object",
            "description": inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0],
            "properties": {key: {} for key in DIRECTIVES} | {**(own or {})} | arguments,
            "additionalProperties": accepts_any(target),
        }

    def value(self, annotation: Any, default: Any, about: str | None) -> Schema:
        kinds = expected_part(annotation)[0] or expected_part(element(annotation))[0]
        schema = json_schema(annotation, self.part(kinds) if kinds else {"type": "object"})
        self.definitions |= schema.pop("$defs", {})
        if schema and schema != {"type": "string"}:
            accepted = schema["anyOf"] if [*schema] == ["anyOf"] else [schema]
            schema = {"anyOf": [*accepted, REFERENCE]}
        if isinstance(default, bool | int | float | str | list | tuple | None):
            text = json.dumps(default, default=str)
            if not re.search("Infinity|NaN", text):
                schema["default"] = json.loads(text)
        return {"description": about, **schema} if about else schema


def _describe_defaults(entry: Schema) -> dict[str, Schema]:
    return {"defaults": {"type": "array", "items": entry, "description": DEFAULTS}}


@functools.cache
def targets_of(*kinds: type) -> list[str]:
    """Find the classes and functions that make one of some classes, by their dotted paths.

    Raises:
        ValueError: when a module in src/data, src/nets or src/tasks cannot be imported.
    """
    return [path for path, made in _known_targets().items() if issubclass(made, kinds)]


@functools.cache
def _known_targets() -> dict[str, type]:
    """Each target that a config can name, and the class of the object that it makes."""
    found = {}
    for path in [*_written_targets(), *_public_classes()]:
        with suppress(ValueError):  # refused in configs, or a mistake that its use reports
            if inspect.isclass(made := returned(locate(path))):
                found[path] = made
    return found


def _written_targets() -> Iterator[str]:
    """Each `_target_` in configs/."""
    for file in sorted(CONFIGS.rglob("*.yaml")):
        yield from TARGET.findall(file.read_text("utf-8", errors="replace"))


def _public_classes() -> Iterator[str]:
    modules = [*LIBRARIES]
    for room in ROOMS:
        folder = load(room).__path__
        modules += [module.name for module in pkgutil.walk_packages(folder, f"{room}.", load)]
    for module in modules:
        for name, made in vars(load(module)).items():
            own = inspect.isclass(made) and made.__module__.startswith(module)
            if own and not name.startswith("_"):
                yield f"{module}.{name}"


def describe_arguments(target: Any) -> dict[str, str]:
    """Read the descriptions of a target's arguments from its docstrings and those of its bases."""
    owners = reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]
    found: dict[str, str] = {}
    for owner in owners:
        for documented in (owner, vars(owner).get("__init__")):
            found |= _read_arguments(getattr(documented, "__doc__", None) or "")
    return found


@functools.cache
def _read_arguments(doc: str) -> dict[str, str]:
    """The entries of `Args` by name; `a, b: text` describes both."""
    block = ARGUMENTS.search(inspect.cleandoc(doc) + "\n")
    found: dict[str, str] = {}
    for entry in ARGUMENT.finditer(inspect.cleandoc("\n" + block[1] if block else "")):
        found |= dict.fromkeys(entry[1].split(", "), " ".join(entry[2].split()))
    return found
