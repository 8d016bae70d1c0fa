"""A new task is one file: what it says of itself is all that the commands ask."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src import tasks
from src.kindling.analysis.intervals import metric_intervals
from src.kindling.analysis.predictions import Predictions
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.deploy import export_files
from src.kindling.deploy.export import export
from src.kindling.training.evaluate import evaluate
from src.kindling.training.trained_run import load_run
from tests.conftest import as_own_task, call, train
from tests.kindling.deploy.conftest import measure_here


def documented(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A class of docs/how-to/add-a-task.md, as one of src/tasks/counts.py; the word that names it."""
    page = (ROOT / "docs" / "how-to" / "add-a-task.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (code,) = [block for block in blocks if f"class {name}(" in block]
    module = types.ModuleType("src.tasks.counts")
    exec(compile(code, "counts.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "src.tasks.counts", module)
    monkeypatch.setattr(tasks, "counts", module, raising=False)
    return f"task._target_=src.tasks.counts.{name}"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example of the page's end."""
    return documented("Counts", monkeypatch)


@pytest.mark.plots
def test_documented_outputs_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = documented("LitDigits", monkeypatch)
    runs = [str(train("digits", word, f"seed={seed}").run.path) for seed in (0, 1)]
    assert "plots:" not in capsys.readouterr().out
    assert (Path(runs[0]) / "plots" / "test_confusion.png").exists()
    call("compare", "--paired", *runs)
    assert "points of accuracy" in capsys.readouterr().out


@pytest.mark.plots
def test_documented_task_example(
    counts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train("diabetes", counts, "trainer.limit_test_batches=1.0")
    run = load_run(result.run.path)
    assert type(run.task).__name__ == "Counts"
    assert evaluate(run)["val/mae"] == result.metrics["val/mae"]
    assert {"test_errors.png", "before_and_after.png"} <= {
        path.name for path in (run.path / "plots").iterdir()
    }
    predictions = Predictions.load(run.path / "predictions" / "test.npz")
    assert (predictions["prediction"] > 0).all()
    assert predictions["score"].mean() == pytest.approx(result.metrics["test/mae"], rel=1e-5)
    assert metric_intervals(run, predictions)[1]["mae"] == pytest.approx(
        result.metrics["test/mean_predictor_mae"], rel=1e-4
    )
    other = train("diabetes", "trainer.limit_test_batches=1.0")
    boards = call("compare", "--paired", str(result.run.path), str(other.run.path))
    assert boards
    monkeypatch.setattr(export_files, "run_in_fresh_process", measure_here)
    assert export(run, "pt2")["pt2"]["difference"] <= 1e-5
    table = run.data().samples.x[:5].numpy()  # type: ignore[index]
    pd.DataFrame(table, columns=[column.name for column in run.spec.columns]).to_csv(
        tmp_path / "new.csv", index=False
    )
    call("predict", str(run.path), str(tmp_path / "new.csv"))
    expected = run.predict(torch.from_numpy(table))["prediction"].flatten().numpy()
    assert pd.read_csv(run.path / "predictions.csv")["prediction"].to_numpy() == pytest.approx(
        expected, rel=1e-4
    )


class Bare(LightningModule):
    """No more than Lightning asks for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0] / 16), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log(
            "val/loss",
            nn.functional.cross_entropy(self.net(batch[0] / 16), batch[1]),
            batch_size=len(batch[1]),
        )

    def test_step(self, batch: Any, number: int) -> None:
        self.log(
            "test/loss",
            nn.functional.cross_entropy(self.net(batch[0] / 16), batch[1]),
            batch_size=len(batch[1]),
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.plots
def test_task_without_optional_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    result = train("digits", as_own_task(Bare, monkeypatch))
    assert evaluate(load_run(result.run.path)) == result.metrics
    assert (result.run.path / "plots" / "curves.png").exists()
    assert (result.run.path / "report.html").exists()
    with pytest.raises(InputError) as caught:
        export(load_run(result.run.path), "pt2")
    (line,) = caught.value.lines
    assert line.startswith("task: Bare cannot be exported: define forward")
    with pytest.raises(InputError) as caught:
        call("predict", str(result.run.path), str(result.run.path / "plots"))
    (line,) = caught.value.lines
    assert line.startswith(
        "task: Bare cannot predict from files: add a predict_step that returns named columns"
    )
