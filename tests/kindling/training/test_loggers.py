"""Other loggers stand beside TensorBoard and the CSV files, and receive the same numbers."""

from __future__ import annotations

import csv
import functools
import json
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.kindling.config.errors import InputError
from src.kindling.runs.files import read_json, write_json
from src.kindling.runs.run import Run, find_run
from src.kindling.training.run_loggers import MetricsFiles, guarded
from src.kindling.training.trainer import muted
from src.tasks.classification import Classification
from tests.conftest import LITTLE, call, train
from tests.interruption import Killed, install_kill

# Unlike the default, it does not depend on trainer.max_epochs, so that a run can be resumed.
CONSTANT = "task.scheduler={_target_: torch.optim.lr_scheduler.ConstantLR}"


def numbers(path: Path, column: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def logged(run: Run) -> dict[str, list[float]]:
    """What every logger should receive: the metrics of each epoch, and those of the test."""
    names = ("train/loss", "val/loss", "val/accuracy", "lr")
    found = {name: numbers(run.path / "steps.csv", name) for name in names}
    assert [len(found[name]) for name in names] == [2, 2, 2, 5]
    assert list(run.path.glob("events*"))
    return {**found, "test/accuracy": [run.metrics["test/accuracy"]]}


def test_csv_logger_receives_all_values() -> None:
    run = train("digits", "logger=csv", "trainer.log_every_n_steps=2").run
    (theirs,) = run.path.glob("digits/*/metrics.csv")
    for name, values in logged(run).items():
        assert numbers(theirs, name) == pytest.approx(values), name


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # MLflow's, of the database library below it
def test_mlflow_receives_all_values(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    file = tmp_path / "mlflow.db"
    run = train(
        "digits",
        "logger=mlflow",
        f"logger.mlflow.tracking_uri=sqlite:///{file}",
        "trainer.log_every_n_steps=2",
    ).run
    with closing(sqlite3.connect(file)) as found:
        for name, values in logged(run).items():
            rows = found.execute(
                "select value from metrics where key = ? order by step", (name,)
            ).fetchall()
            assert [value for (value,) in rows] == pytest.approx(values), name
        # By itself, MLflow draws a name from Python's generator, which the seed sets: equal names.
        assert found.execute("select name from runs").fetchall() == [(run.logger_id,)]


def test_wandb_receives_all_values() -> None:
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    run = train("digits", "logger=wandb", "trainer.log_every_n_steps=2").run
    wandb.finish()
    wandb.teardown()  # as at a process's end; until then its service buffers the rows
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    rows = list(history(file))
    for name, values in logged(run).items():
        assert [row[name] for row in rows if name in row] == pytest.approx(values), name


# --------------------------------------------------------------------------------------------------
# IDs


def csv_ids(logs: Path) -> dict[str, list[str]]:
    """The version that each run's CSVLogger received, by the run's directory."""
    found = sorted(logs.rglob("lightning_logs_of_digits/*/metrics.csv"))
    ids: dict[str, list[str]] = {}
    for path in found:
        run = path.parents[2].relative_to(logs).as_posix()
        ids.setdefault(run, []).append(path.parent.name)
    return ids


WITH_CSV = (*LITTLE, "logger=csv", "logger.csv.name=lightning_logs_of_digits")


def test_ids_differ_between_studies_and_between_runs(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for study in ("one", "two"):
        call("train", "digits", *WITH_CSV, "--seeds", "0,1", "--name", study)
    monkeypatch.setattr(time, "strftime", lambda *_: "2026-01-02_03-04-05")
    train("digits", *WITH_CSV)
    monkeypatch.undo()
    ids = csv_ids(logs)
    assert sorted(ids) == [
        "digits/2026-01-02_03-04-05",
        "digits/one/seed0",
        "digits/one/seed1",
        "digits/two/seed0",
        "digits/two/seed1",
    ]
    for run, (version,) in ids.items():
        assert re.fullmatch(re.escape(run.replace("/", "-")) + "-[0-9a-f]{8}", version)


def test_id_is_valid_for_wandb(logs: Path) -> None:
    path = logs / "größe: 1 #2" / ("a" * 150) / "seed0"
    assert re.fullmatch(r"[A-Za-z0-9_.-]{9,128}", Run(path).logger_id)
    # Even a study that was deleted and is trained again is another one.
    assert Run(path).logger_id != Run(path).logger_id


def test_id_is_kept_on_resume(logs: Path) -> None:
    run = train("digits", *WITH_CSV, CONSTANT).run
    for epochs in (3, 4):
        call("train", "--resume", str(run.path), f"trainer.max_epochs={epochs}")
    meta = read_json(run.path / "meta.json")
    new = meta["logger_id"]
    assert csv_ids(logs) == {f"digits/{run.path.name}": [new]}
    assert len(meta["resumed"]) == 2
    # In an earlier version, it was the directory's name.
    del meta["logger_id"]
    write_json(run.path / "meta.json", meta)
    call("train", "--resume", str(run.path), "trainer.max_epochs=5")
    assert csv_ids(logs) == {f"digits/{run.path.name}": [run.path.name, new]}


def killed_and_resumed(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Run, Run]:
    """A run of three epochs, and one that is killed in its second epoch and resumed."""
    words = ("digits", "trainer.max_epochs=3", "trainer.log_every_n_steps=2", *words)
    whole = train(*words).run
    install_kill(monkeypatch)(5)
    with pytest.raises(Killed):
        train(*words)
    resumed = find_run("latest")
    call("train", "--resume", str(resumed.path))
    return whole, resumed


def test_csv_logger_keeps_rows_on_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, resumed = killed_and_resumed(
        monkeypatch, "logger=csv", "logger.csv.flush_logs_every_n_steps=1"
    )
    (expected,), (found,) = (run.path.glob("digits/*/metrics.csv") for run in (whole, resumed))
    assert found.read_text() == expected.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_run_is_continued_on_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ("logger=mlflow", f"logger.mlflow.tracking_uri={uri}", "logger.mlflow.run_name=mine")
    runs = killed_and_resumed(monkeypatch, *words)
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'kindling'")
    by_id = client.search_runs([experiment.experiment_id])
    assert [run.info.run_name for run in by_id] == ["mine", "mine"]
    found = {run.data.tags["kindling_run"]: run for run in by_id}
    assert sorted(found) == sorted(run.logger_id for run in runs)
    whole, resumed = (found[run.logger_id] for run in runs)
    assert resumed.info.status == whole.info.status == "FINISHED"
    assert resumed.data.metrics == pytest.approx(whole.data.metrics)
    losses = client.get_metric_history(resumed.info.run_id, "val/loss")
    assert [point.value for point in losses] == pytest.approx(
        numbers(runs[0].path / "metrics.csv", "val/loss")
    )


def test_wandb_run_for_each_trial(logs: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    for study in ("one", "two"):
        call("train", "digits", *LITTLE, "logger=wandb", "--seeds", "0,1", "--name", study)
    assert wandb.run is None
    run = train("digits", "logger=wandb", CONSTANT).run
    call("train", "--resume", str(run.path), "trainer.max_epochs=3")
    wandb.teardown()
    ids = {}
    for path in logs.rglob("wandb/offline-run-*"):
        folder = path.parents[1]
        expected = read_json(folder / "meta.json")["logger_id"]
        assert path.name.endswith(f"-{expected}")
        ids.setdefault(expected, []).append(folder)
    assert len(ids) == 5
    assert sorted(map(len, ids.values())) == [1, 1, 1, 1, 2]  # two parts of the resumed run
    for folders in ids.values():
        (folder,) = set(folders)
        rows = [row for file in folder.glob("wandb/offline-run-*/*.wandb") for row in history(file)]
        losses = [row["val/loss"] for row in rows if "val/loss" in row]
        assert sorted(losses) == sorted(numbers(folder / "metrics.csv", "val/loss"))


@pytest.mark.filterwarnings("ignore:There is a wandb run already in progress")
def test_wandb_run_of_user_stays_open(logs: Path, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    mine = wandb.init(dir=tmp_path, mode="offline", id="mine")
    train("digits", "logger=wandb")
    assert wandb.run is mine
    wandb.finish()
    wandb.teardown()


# --------------------------------------------------------------------------------------------------
# What a task reaches by `self.logger`


def test_task_writes_images_in_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("training", "validation", "test"):
        step = getattr(Classification, f"{stage}_step")

        @functools.wraps(step)
        def write(task: Classification, *args: Any, stage: str = stage, step: Any = step) -> Any:
            board = task.logger.experiment  # type: ignore[union-attr]
            board.add_image(stage, torch.zeros(3, 2, 2), task.global_step)
            return step(task, *args)

        monkeypatch.setattr(Classification, f"{stage}_step", write)
    run = train("digits").run
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = {tag: {event.step for event in events.Images(tag)} for tag in events.Tags()["images"]}
    assert found["training"] == {0, 1, 2, 3, 4, 5}
    assert {3, 6} <= found["validation"]
    assert found["test"] == {6}
    # What is measured at the end makes no more points of the epochs' curves.
    assert [event.step for event in events.Scalars("val/loss")] == [2, 5]
    assert [event.value for event in events.Scalars("test/accuracy")] == pytest.approx(
        [run.metrics["test/accuracy"]]
    )


def test_muted_loggers(tmp_path: Path) -> None:
    file = guarded(MetricsFiles(tmp_path, 0), tmp_path)
    with suppress(RuntimeError), muted([file]):
        file.log_metrics({"a": 1.0}, step=0)
        raise RuntimeError
    assert not (tmp_path / "metrics.csv").exists()
    file.log_metrics({"a": 2.0}, step=0)
    assert numbers(tmp_path / "metrics.csv", "a") == [2.0]


def history(path: Path) -> Iterator[dict[str, float]]:
    """Read the rows in the file of `wandb sync`: protocol buffers in blocks of 32 KiB."""
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
            yield {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items
            }
            record = b""


def test_missing_logger_names_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(InputError) as caught:
        train("digits", "logger={wandb: {_target_: lightning.pytorch.loggers.WandbLogger}}")
    assert caught.value.lines == [
        "logger.wandb: WandbLogger: wandb is not installed: pip install -e '.[wandb]' (command "
        "line)"
    ]


def test_hanging_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.kindling.data.loader import BatchDataset

    # Twice as long torch waits for the worker, before it is killed.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)

    def hangs(self: BatchDataset, request: object) -> None:
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(600)

    read = BatchDataset.__getitem__
    monkeypatch.setattr(
        BatchDataset,
        "__getitem__",
        lambda self, request: hangs(self, request) or read(self, request),
    )
    with pytest.raises(InputError) as caught:
        train("digits", "data.num_workers=1", "data.timeout=1")
    (line,) = caught.value.lines
    assert line.startswith("the training loader gave no batch for 1")
    assert "data.num_workers=0" in line
