"""The engine's layers: each package imports from itself and from those below it, and no module from the user's rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from src.kindling.config.compose import ROOT

# From the lowest to the highest; commands stand above all of them.
LAYERS = ("config", "runs", "data", "nn", "training", "analysis", "deploy", "studies", "dev")
USERS_ROOMS = ("src.data", "src.nets", "src.tasks", "src.gallery")
WITHOUT_TORCH = ("src.kindling.config", "src.kindling.runs", "src.kindling.deploy.serving")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "src").rglob("*.py"))
}


def imports(module: str, top_level_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, inside functions and for annotations too."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


def layer(module: str) -> int:
    """The layer's number; -1 for what is no part of the engine's packages."""
    steps = module.split(".")
    return LAYERS.index(steps[2]) if module.startswith("src.kindling.") and len(steps) > 2 else -1


ENGINE = [module for module in FILES if module.startswith("src.kindling")]


@pytest.mark.parametrize("module", ENGINE)
def test_layer_imports_nothing_above_it(module: str) -> None:
    above = [name for name in imports(module) if name.startswith("src.kindling") and layer(name) > layer(module)]
    assert not above
    outside = [name for name in imports(module) if name.startswith("src.") and not name.startswith("src.kindling")]
    assert not outside, "the engine finds the user's modules by their dotted paths"


def test_imports_have_no_cycle() -> None:
    graph = {module: {name for name in imports(module) if name in FILES and name != module} for module in FILES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in ENGINE if module.startswith(WITHOUT_TORCH)])
def test_light_packages_import_no_torch(module: str) -> None:
    heavy = ("torch", "lightning", "torchvision", "torchmetrics")
    assert not [name for name in imports(module, top_level_only=True) if name.partition(".")[0] in heavy]
