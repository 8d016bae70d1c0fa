"""Runs of version 0.1, written before the engine had a folder of its own: loaded, measured, resumed and exported.

`tests/old_runs/<config>` was stopped in the middle of its second epoch; `uninterrupted.json` and `.csv` are the
results of the same training without the stop.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from src.kindling.deploy import export_files
from src.kindling.runs import run as run_module
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from tests.conftest import call
from tests.kindling.deploy.conftest import measure_here

OLD = Path(__file__).with_name("old_runs")


@pytest.fixture(params=["digits", "diabetes"])
def old(request: pytest.FixtureRequest, logs: Path) -> Run:
    path = run_module.LOGS / request.param / "2026-11-29_02-05-44"
    shutil.copytree(OLD / request.param, path)
    return load_run(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_old_run_evaluates(old: Run) -> None:
    first = read_csv(old.path / "metrics.csv")[0]
    found = call("evaluate", str(old.path))
    assert isinstance(found, dict)
    for name in (name for name in first if name.startswith("val/")):
        assert found[name] == pytest.approx(float(first[name]), rel=1e-4)


def test_old_run_resumes_exactly(old: Run) -> None:
    call("train", "--resume", str(old.path), "--no-plots")
    expected = json.loads((old.path / "uninterrupted.json").read_text())
    found = json.loads((old.path / "metrics.json").read_text())
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    rows = read_csv(old.path / "uninterrupted.csv")
    resumed = read_csv(old.path / "steps.csv")
    rows = [row for row in rows if row["val/loss"]]
    assert [row["step"] for row in resumed] == [row["step"] for row in rows]
    for name in rows[0].keys() - {"epoch"}:
        # It logged the batch loss and the learning rate of fewer steps.
        values = {row["step"]: float(row[name]) for row in rows if row[name]}
        found = {row["step"]: float(row[name]) for row in resumed if row[name]}
        assert {step: found[step] for step in values} == pytest.approx(values, rel=1e-3)
    epochs = [row["epoch"] for row in read_csv(old.path / "metrics.csv")]
    # That version counted from 0.
    assert epochs == [str(epoch + 1) for epoch in sorted({int(row["epoch"]) for row in rows})]


def test_old_run_exports(old: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_files, "run_in_fresh_process", measure_here)
    call("export", str(old.path), "--format", "onnx")
    assert (old.path / "export" / "model.onnx").stat().st_size > 1000
    report = json.loads((old.path / "export" / "onnx.json").read_text())
    assert report["difference"] < 1e-4


def test_old_checkpoint_file_loads_without_run(old: Run, tmp_path: Path) -> None:
    file = Path(shutil.copy(old.checkpoints / "best.ckpt", tmp_path / "old.ckpt"))
    task = load_run(file).task
    assert torch.equal(next(task.parameters()), next(old.task.parameters()))
