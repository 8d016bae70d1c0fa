"""Runs of a LightningModule from elsewhere: their report and their paired comparison."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.plots import Plots
from src.kindling.analysis.predictions import Predictions
from src.kindling.analysis.report import format_number, report
from src.kindling.config.compose import compose
from src.kindling.runs.run import Run
from src.kindling.training.fit import fit
from src.kindling.training.trained_run import TrainedRun, load_run
from tests.conftest import call
from tests.foreign.drive import foreign

pytestmark = [pytest.mark.plots, pytest.mark.filterwarnings("ignore")]
NAME = "lstm_forecaster"  # predict_step returns `prediction` and `target`; logs `val_loss`


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[TrainedRun]]:
    """Two runs, the second with more epochs."""
    with foreign(tmp_path_factory.mktemp("logs")):
        found = []
        for epochs in (1, 3):
            run = Run.claim(NAME)
            config = compose(NAME, ["num_threads=1", f"trainer.max_epochs={epochs}"])
            fit(config, run, plots=Plots(run))
            found.append(load_run(run.path))
        yield found


def rows(page: str) -> dict[str, str]:
    """The cells of the result table by metric."""
    table = page.partition('<table id="results">')[2].partition("</table>")[0]
    return dict(re.findall(r"<tr><td>(.*?)</td>(.*?)</tr>", table, flags=re.DOTALL))


def test_report_of_foreign_run_has_metrics_plots_and_config(pair: list[TrainedRun]) -> None:
    run = pair[1]
    page = (run.path / "report.html").read_text()
    assert rows(page).keys() == {"loss", "mae"}
    loss = rows(page)["loss"]
    for name in ("val_loss", "test_loss"):
        assert format_number(run.metrics[name]) in loss
    assert "<figcaption>curves</figcaption>" in page
    assert "<td>task.<wbr>hidden_size</td><td>16</td>" in page
    assert "<h2>Data</h2>" not in page  # no spec
    assert "Best val/loss" in page
    assert re.search(r"lstm +LSTM +24 x 16 +1,344 +58,368", page)  # the layers


def test_report_of_foreign_run_has_interval_of_its_score(pair: list[TrainedRun]) -> None:
    run = pair[1]
    predictions = Predictions.load(run.path / "predictions" / "test.npz")
    errors = np.abs(predictions["prediction"] - predictions["target"])
    interval = mean_interval(predictions["score"], skewed=True)
    assert interval is not None
    half = 1.96 * errors.std() / np.sqrt(len(errors))
    expected = (errors.mean() - half, errors.mean() + half)
    assert interval == pytest.approx(expected, abs=0.3 * half)
    mae = rows((run.path / "report.html").read_text())["mae"]
    assert f"<b>{format_number(float(errors.mean()))}</b>" in mae
    assert " to ".join(format_number(end) for end in interval) in mae
    assert mean_interval(predictions["score"][:1]) is None


def test_interval_of_score_joins_only_the_metric_it_measures(
    pair: list[TrainedRun], tmp_path: Path
) -> None:
    copy = TrainedRun(shutil.copytree(pair[1].path, tmp_path / NAME / "copy"))
    mean = float(Predictions.load(copy.path / "predictions" / "test.npz")["score"].mean())
    for logged, expected in ((mean, ["mae"]), (2 * mean, ["mae of predictions"])):
        metrics = {"test_mae": logged, "top1": 0.5}
        (copy.path / "metrics.json").write_text(json.dumps(metrics))
        page = report(copy).read_text()
        assert [name for name, cells in rows(page).items() if " to " in cells] == expected
        assert f"<b>{format_number(logged)}</b>" in rows(page)["mae"]
        assert "Metrics without a split in their names: top1 0.5000." in page


def test_column_with_the_name_of_a_metric_gives_its_interval(
    pair: list[TrainedRun], tmp_path: Path
) -> None:
    copy = TrainedRun(shutil.copytree(pair[1].path, tmp_path / NAME / "copy"))
    path = copy.path / "predictions" / "test.npz"
    predictions = Predictions.load(path)
    column = np.linspace(0, 2 * copy.metrics["test_loss"], len(predictions))
    several = np.stack([column, column], axis=1)  # of each sample
    predictions.columns |= {"loss": column, "unlogged": column, "spread": several}
    (copy.path / "metrics.json").write_text(json.dumps({**copy.metrics, "test_spread": 0.5}))
    predictions.save(path)
    interval = mean_interval(column, skewed=True)
    assert interval is not None
    found = rows(report(copy).read_text())
    assert found.keys() == {"loss", "mae", "spread"}
    assert " to ".join(format_number(end) for end in interval) in found["loss"]
    assert " to " not in found["spread"]
    assert " to " in found["mae"]


def test_foreign_runs_are_compared_paired(
    pair: list[TrainedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    call("compare", "--paired", *(str(run.path) for run in pair))
    printed = capsys.readouterr().out
    samples = len(Predictions.load(pair[0].path / "predictions" / "test.npz"))
    assert f"{samples:,} test samples" in printed
    assert re.search(r"B is significantly better by \S+ in mean absolute error", printed)
