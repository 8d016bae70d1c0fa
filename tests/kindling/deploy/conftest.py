"""Runs of each kind of data, trained once for all tests of deploying."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from src.kindling.deploy import export_files
from src.kindling.deploy.export_files import measure
from src.kindling.runs.run import Run
from tests.conftest import copied, kept_runs, lead, train

SCENES = "data.scenes=[96,32,32]"
CARDS = ("image_folder", "data.root=~/cards")
WORDS: dict[str, tuple[str, ...]] = {
    "digits": (
        "digits",
        "net.dropout=0.5",
        "trainer.max_epochs=10",
        "trainer.limit_train_batches=1.0",
    ),
    "diabetes": ("diabetes",),
    "breast_cancer": ("breast_cancer",),
    "labels": ("multilabel", SCENES),
    "localization": ("localization", SCENES),
    "masks": ("segmentation", SCENES, "net.channels=[8,16]"),
    "table": ("table", "data.path=rooms.csv", "data.target=price", "data.drop=[id]"),
    "color images": (*CARDS, "data.channels=3"),
}


def write_rows(count: int) -> str:
    """A table with numbers, some missing, categories, booleans, and a column to drop."""
    rows = ["size,rooms,color,new,id,price"]
    for i in range(count):
        rooms, color = "" if i % 5 == 0 else i % 7, ["red", "blue", ""][i % 3]
        rows.append(f"{i % 17},{rooms},{color},{bool(i % 2)},r{i},{i * 0.5}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_files: Any) -> Callable[[str], Run]:
    """A run by its name in WORDS; it is shared, and has to stay as it is."""
    (small_files[0] / "rooms.csv").write_text(write_rows(200))

    @cache
    def train_once(name: str) -> Run:
        with kept_runs(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
            lead(small_files, patch)
            return train(*WORDS[name]).run

    return train_once


@pytest.fixture
def run_of(trained: Callable[[str], Run], small_data: Any) -> Callable[[str], Run]:
    """A copy of such a run, in the logs/ of this test."""
    return lambda name: copied(trained(name))


def measure_here(*arguments: Any) -> None:
    measure(*map(str, arguments))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without a fresh process for each comparison, which takes seconds."""
    monkeypatch.setattr(export_files, "run_in_fresh_process", measure_here)
