"""The classes that a config can name, and the descriptions of their arguments."""

from __future__ import annotations

import functools
import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from src.kindling.config.allowed import ROOMS
from src.kindling.config.compose import CONFIGS
from src.kindling.config.targets import load, locate, returned

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
