"""Run as a process: tries every class of torch, torchvision, torchmetrics and lightning as a target.

    python -m tests.kindling.config.walk_libraries

Prints as JSON which classes are allowed in which place, and which of those open a file, a socket or a process when they
are built. A process of its own, since it imports every module of the libraries.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torchmetrics
from torch import nn

from src.kindling.config.allowed import KINDS, NESTED, OF_TRAINER
from src.kindling.config.targets import find, kinds, load, parameters

LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning", "timm")
WATCHED = (
    "open",
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "shutil.",
    "urllib.",
    "ctypes.dlopen",
)


def classes() -> Iterator[tuple[str, Any]]:
    """Every class of the libraries, by a path that leads to it."""
    for top in LIBRARIES:
        package = importlib.import_module(top)
        modules = [top]
        for info in pkgutil.walk_packages(package.__path__, top + ".", onerror=lambda _: None):
            if not info.name.endswith("__main__"):
                modules.append(info.name)
        for name in modules:
            try:
                module = importlib.import_module(name)
            except (
                BaseException
            ):  # of a package that is not installed here, or that ends the process
                continue
            for key, value in list(vars(module).items()):
                if inspect.isclass(value) and value.__module__.partition(".")[0] in LIBRARIES:
                    yield f"{name}.{key}", value


def _issubclass(value: Any, kind: Any) -> bool:
    try:
        return issubclass(value, kind)
    except TypeError:
        return False


def find_all(every: list[tuple[str, Any]]) -> dict[str, Any]:
    """What each place in a config allows, and what of it is of another kind."""
    places: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
        **{section: ((load(kind),), ()) for section, kind in KINDS.items()},
        "an argument": ((), NESTED),
        "an argument of the Trainer": ((), OF_TRAINER),
    }
    allowed: dict[str, list[str]] = {place: [] for place in places}
    wrong: list[str] = []
    for path, value in every:
        for place, (expected, nested) in places.items():
            try:
                find(path, expected, nested)
            except ValueError:
                continue
            allowed[place].append(path)
            older_transform = nested == NESTED and value.__module__.startswith(
                "torchvision.transforms"
            )
            if not _issubclass(value, expected or kinds(nested)) and not older_transform:
                wrong.append(f"{place}: {path}")
    return {"tried": len(every), "wrong": wrong, "allowed": allowed}


def _argument(name: str, annotation: Any) -> Any:
    """Something that an argument may be, from its name and annotation."""
    text = str(annotation)
    for sign, value in (
        ("Metric", torchmetrics.MeanMetric()),
        ("Optimizer", torch.optim.SGD([nn.Parameter(torch.zeros(1))])),
        ("Module", nn.Linear(4, 4)),
        ("bool", False),
        ("int", 4),
        ("float", 0.5),
        ("str", "x"),
        ("list", [4, 4]),
        ("tuple", (4, 4)),
        ("dict", {}),
        ("Callable", nn.Identity),
    ):
        if sign in text:
            return value
    return nn.Linear(4, 4).parameters() if name == "params" else 4


def build_all(some: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build each class, with arguments that fit its signature by guess, and watch what it opens."""
    events: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments else ""
        imported = (event == "open" and path.endswith((".py", ".pyc", ".so"))) or path in sys.path
        if (
            watching
            and event.startswith(WATCHED)
            and not imported
            and not path.startswith(("/proc/", "libnvidia-ml"))
        ):
            events.append(f"{event} {path}")

    sys.addaudithook(hook)
    built = 0
    opened: dict[str, list[str]] = {}
    for path, value in [*some, ("the test's own", _Opening)]:
        wanted = {
            name: _argument(name, parameter.annotation)
            for name, parameter in parameters(value).items()
            if parameter.default is parameter.empty
        }
        events.clear()
        watching = True
        # Some nets of timm would take gigabytes.
        device = "meta" if path.startswith("timm.") else "cpu"
        try:
            with torch.device(device):
                value(**wanted)
            built += 1
        except (Exception, SystemExit):
            pass
        watching = False
        if events:
            opened[path] = list(events)
    return {"built": built, "opened": opened}


class _Opening:
    def __init__(self) -> None:
        with open("here", "w"):
            pass


def main() -> None:
    warnings.simplefilter("ignore")
    out = io.StringIO()
    before = os.getcwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        os.chdir(folder)
        every = list(classes())
        result = find_all(every)
        arguments = {
            *result["allowed"]["an argument"],
            *result["allowed"]["an argument of the Trainer"],
        }
        result |= build_all(
            list({value: (path, value) for path, value in every if path in arguments}.values())
        )
        os.chdir(before)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
