"""Import the older package `pytorch_lightning` as `lightning.pytorch`.

The two have the same code but different classes, so that a Trainer of one refuses a module of the
other. The Trainer here is Lightning's; many projects still import the older name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OLD, NEW = "pytorch_lightning", "lightning.pytorch"


class _Alias(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] == OLD else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(module.__name__.replace(OLD, NEW, 1))


def alias() -> None:
    """Have every later import of the older name find the newer; repeated calls do nothing."""
    if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
