"""Other loggers stand beside TensorBoard and metrics.csv, and receive the same numbers."""

from __future__ import annotations

import csv
import json
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from src.errors import InputError
from src.run import Run
from tests.conftest import train


def numbers(path: Path, column: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def logged(run: Run) -> dict[str, list[float]]:
    """What every logger should have received: the epochs' numbers, and the final ones of the test."""
    names = ("train/loss", "val/loss", "val/accuracy", "lr")
    found = {name: numbers(run.path / "metrics.csv", name) for name in names}
    assert [len(found[name]) for name in names] == [2, 2, 2, 3]
    assert list(run.path.glob("events*"))
    return {**found, "test/accuracy": [run.metrics["test/accuracy"]]}


def test_lightnings_csv_receives_the_same() -> None:
    run = train("digits", "logger=csv", "trainer.log_every_n_steps=2").run
    (theirs,) = run.path.glob("digits/*/metrics.csv")
    for name, values in logged(run).items():
        assert numbers(theirs, name) == pytest.approx(values), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of the database library below it
def test_mlflow_receives_the_same_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    file = tmp_path / "mlflow.db"
    run = train(
        "digits", "logger=mlflow", f"logger.mlflow.tracking_uri=sqlite:///{file}", "trainer.log_every_n_steps=2"
    ).run
    with closing(sqlite3.connect(file)) as found:
        for name, values in logged(run).items():
            rows = found.execute("select value from metrics where key = ? order by step", (name,)).fetchall()
            assert [value for (value,) in rows] == pytest.approx(values), name


def test_wandb_receives_the_same_offline() -> None:
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    run = train("digits", "logger=wandb", "trainer.log_every_n_steps=2").run
    wandb.finish()
    wandb.teardown()  # as the end of a process does: until then, rows wait in the memory of its service
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    rows = list(history(file))
    for name, values in logged(run).items():
        assert [row[name] for row in rows if name in row] == pytest.approx(values), name


def history(path: Path) -> Iterator[dict[str, float]]:
    """The rows of numbers in the file that `wandb sync` would send: a log of protocol buffers in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = path.read_bytes(), 7, b""  # after its own head
    while len(content) - at >= 7:
        room = 32768 - at % 32768
        if room < 7:  # too little for a head: the block's rest is empty
            at += room
            continue
        _, length, part = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last of several
            items = Record.FromString(record).history.item
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            record = b""


def test_a_logger_that_is_not_installed_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(InputError) as caught:
        train("digits", "logger={wandb: {_target_: lightning.pytorch.loggers.WandbLogger}}")
    assert caught.value.lines == [
        "logger.wandb: WandbLogger: wandb is not installed: pip install -e '.[wandb]' (command line)"
    ]


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
