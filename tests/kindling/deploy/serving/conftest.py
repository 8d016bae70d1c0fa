"""Runs of three kinds of target, exported, and running servers that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from src.kindling.deploy import export_files
from src.kindling.deploy.export import export
from src.kindling.runs.run import Run
from tests.conftest import copied, kept_runs, lead
from tests.kindling.deploy.conftest import measure_here
from tests.kindling.deploy.serving.server_process import (
    Server,
    file_of,
    serve,
)

# Without the extras `serve` and `export`, these tests are not collected.
REQUIRED = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "onnx", "onnxruntime")
if not all(find_spec(module) for module in REQUIRED):
    collect_ignore_glob = ["test_*.py"]

Trained = Callable[[str], Run]


def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with kept_runs(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        run = copied(run)
        patch.setattr(export_files, "run_in_fresh_process", measure_here)
        export(run)
    return run


@pytest.fixture(scope="session")
def digits(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return exported(trained("digits"), tmp_path_factory)


@pytest.fixture(scope="session")
def houses(trained: Trained, small_files: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        lead(small_files, patch)
        return exported(trained("table"), tmp_path_factory)


@pytest.fixture(scope="session")
def scenes(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return exported(trained("masks"), tmp_path_factory)


@pytest.fixture(scope="session")
def images(digits: Run) -> Iterator[Server]:
    """A server that many tests share, and that has to stay healthy."""
    with serve(file_of(digits), "--max-body", "1", "--max-rows", "20") as server:
        yield server


@pytest.fixture(scope="session")
def tables(houses: Run) -> Iterator[Server]:
    with serve(file_of(houses), "--max-body", "1", "--max-rows", "20") as server:
        yield server


@pytest.fixture(scope="session")
def locked(houses: Run) -> Iterator[Server]:
    flags = ("--api-key-env", "KINDLING_KEY")
    with serve(file_of(houses), *flags, key="much secret") as server:
        yield server
