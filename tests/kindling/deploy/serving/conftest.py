"""Runs of three kinds of target, exported, and running servers that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from src.kindling.deploy import export_files
from src.kindling.deploy.export import export
from src.kindling.deploy.export_files import measure
from src.kindling.runs.run import Run
from tests.conftest import kept_runs, train
from tests.kindling.deploy.serving.server_process import (
    Server,
    file_of,
    serve,
)

# Without the extras `serve` and `export`, these tests are not collected.
REQUIRED = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "onnx", "onnxruntime")
if not all(find_spec(module) for module in REQUIRED):
    collect_ignore_glob = ["test_*.py"]


@contextmanager
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A logs/ for a run, and exports without a process for each proof."""
    with kept_runs(tmp_path_factory) as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export_files, "run_in_fresh_process", lambda *words: measure(*map(str, words))
        )
        yield logs


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with exports(tmp_path_factory):
        run = train("digits").run
        export(run)
        return run


@pytest.fixture(scope="session")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on numbers, some missing, categories and booleans."""
    with exports(tmp_path_factory) as logs:
        rows = ["size,rooms,color,new,price"]
        for i in range(200):
            rooms, color = "" if i % 5 == 0 else i % 7, ["red", "blue", ""][i % 3]
            rows.append(f"{i % 17},{rooms},{color},{bool(i % 2)},{i * 0.5}")
        (logs / "houses.csv").write_text("\n".join(rows) + "\n")
        run = train("table", f"data.path={logs}/houses.csv", "data.target=price").run
        export(run)
        return run


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on images and their masks."""
    with exports(tmp_path_factory):
        run = train("segmentation", "data.scenes=[96,32,32]", "net.channels=[8,16]").run
        export(run)
        return run


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
