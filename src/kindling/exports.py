"""Names that a package offers, imported when first asked for: importing torch takes 1.5 s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package; `names` are what each of its modules offers."""

    def load(name: str) -> Any:
        for module, inside in names.items():
            if name in inside:
                return getattr(import_module(f"{package}.{module}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
