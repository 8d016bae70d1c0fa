"""Other loggers stand beside TensorBoard and metrics.csv, and receive the same numbers."""

from __future__ import annotations

import csv
import sqlite3
import time
from pathlib import Path

import pytest
import torch

from src.errors import InputError
from tests.conftest import train


def numbers(path: Path, column: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def test_lightnings_csv_receives_the_same() -> None:
    run = train("digits", "logger={csv: {_target_: lightning.pytorch.loggers.CSVLogger}}").run
    (theirs,) = run.path.glob("digits/*/metrics.csv")
    assert numbers(theirs, "val/loss") == pytest.approx(numbers(run.path / "metrics.csv", "val/loss"))
    assert numbers(theirs, "test/accuracy") == pytest.approx([run.metrics["test/accuracy"]])
    assert list(run.path.glob("events*"))


def test_mlflow_receives_the_same_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    file = tmp_path / "mlflow.db"
    run = train("digits", "logger={mlflow: {_target_: lightning.pytorch.loggers.MLFlowLogger, "
                f"tracking_uri: 'sqlite:///{file}'}}}}").run  # fmt: skip
    with sqlite3.connect(file) as found:
        rows = found.execute("select value from metrics where key = 'val/loss' order by step").fetchall()
    assert [value for (value,) in rows] == pytest.approx(numbers(run.path / "metrics.csv", "val/loss"))


def test_wandb_writes_offline() -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    run = train("digits", "logger={wandb: {_target_: lightning.pytorch.loggers.WandbLogger, offline: true}}").run
    assert list(run.path.glob("wandb/offline-run-*/*.wandb"))


def test_a_logger_that_is_not_installed_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(InputError) as caught:
        train("digits", "logger={wandb: {_target_: lightning.pytorch.loggers.WandbLogger}}")
    assert caught.value.lines[0].startswith("logger.wandb: WandbLogger: ")


def test_a_worker_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.data.batch import BatchDataset

    def hangs(self: BatchDataset, request: object) -> None:
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(600)

    read = BatchDataset.__getitem__
    monkeypatch.setattr(BatchDataset, "__getitem__", lambda self, request: hangs(self, request) or read(self, request))
    with pytest.raises(InputError) as caught:
        train("digits", "data.num_workers=1", "data.timeout=1")
    (line,) = caught.value.lines
    assert line.startswith("the training loader gave no batch for 1")
    assert "data.num_workers=0" in line
