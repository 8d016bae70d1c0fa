"""The engine's layers: a package imports itself and those below it, never the user's code."""

from __future__ import annotations

import ast
import re
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
    return LAYERS.index(steps[2]) if len(steps) > 2 and steps[2] in LAYERS else -1


ENGINE = [module for module in FILES if module.startswith("src.kindling")]


@pytest.mark.parametrize("module", ENGINE)
def test_layer_imports_nothing_above_it(module: str) -> None:
    above = [
        name
        for name in imports(module)
        if name.startswith("src.kindling") and layer(name) > layer(module)
    ]
    assert not above
    outside = [
        name
        for name in imports(module)
        if name.startswith("src.") and not name.startswith("src.kindling")
    ]
    assert not outside, "the engine finds the user's modules by their dotted paths"


LIGHTNING_PRIVATE = re.compile(
    r"(?:\b(?:trainer|loop|strategy|fetcher)|trainer\.[a-z_.]+|_(?:loop|connector))\._[a-z]"
    r"|from lightning\.[\w.]+ import (?:\([^)]*|[^(\n]*)\b_[A-Z]\w+"
    r"|\b_(?:Metadata|ResultMetric|ResultCollection|Sync)\b"
)


@pytest.mark.parametrize(
    "line",
    [
        "trainer._logger_connector",
        "trainer.fit_loop.epoch_loop._results",
        "self.trainer.fit_loop._restarting = False",
        "loop._should_accumulate()",
        "from lightning.pytorch.loops.loop import (\n    _Loop,\n)",
        "meta = _Metadata()",
    ],
)
def test_lightning_privates_are_recognized(line: str) -> None:
    assert LIGHTNING_PRIVATE.search(line)


def test_lightning_privates_in_one_file() -> None:
    users = {
        module
        for module, path in FILES.items()
        if LIGHTNING_PRIVATE.search(path.read_text(encoding="utf-8"))
    }
    assert users == {"src.kindling.training.lightning_internals"}


def test_only_outputs_and_data_ask_for_the_kind_of_target() -> None:
    asked = re.compile(r"target_type\s*(?:==|!=|(?:not )?in\b)")
    assert asked.search("spec.target_type == 'class'")
    users = [
        module
        for module in ENGINE
        if not module.startswith(("src.kindling.data", "src.kindling.analysis.outputs"))
        and asked.search(FILES[module].read_text(encoding="utf-8"))
    ]
    assert users == []


def test_imports_have_no_cycle() -> None:
    graph = {
        module: {name for name in imports(module) if name in FILES and name != module}
        for module in FILES
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "module", [module for module in ENGINE if module.startswith(WITHOUT_TORCH)]
)
def test_light_packages_import_no_torch(module: str) -> None:
    heavy = ("torch", "lightning", "torchvision", "torchmetrics")
    assert not [
        name for name in imports(module, top_level_only=True) if name.partition(".")[0] in heavy
    ]


@pytest.mark.parametrize(
    "module",
    [module for module in FILES if module.startswith(USERS_ROOMS)],
)
def test_user_modules_import_only_exports(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    statements = [ast.unparse(node) for node in imported if "src.kindling" in ast.unparse(node)]
    packages = "|".join(LAYERS)
    wrong = [s for s in statements if not re.match(rf"from src\.kindling\.({packages}) import ", s)]
    assert not wrong, "import from the package, as in `from src.kindling.data import DataModule`"
    names = [name for name in imports(module) if name.startswith("src.kindling")]
    assert not [name for name in names if name.count(".") > 2], "a submodule is no exported name"


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_are_short(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    limit = 60 if module.count(".") == 1 else 300 if module.startswith("src.kindling") else 150
    if module.startswith(("src.gallery", "src.tasks")):  # where a copy of the gallery goes
        limit = 220
    assert len(text.splitlines()) <= limit
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60]
    assert not long
    assert "# fmt: skip" not in text
