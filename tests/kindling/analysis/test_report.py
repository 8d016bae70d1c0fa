"""The report: metrics, plots and config; report and TensorBoard in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.metrics import accuracy_score

from src.kindling.analysis.intervals import metric_intervals
from src.kindling.analysis.predictions import Predictions
from src.kindling.analysis.report import _place_marks, _results, format_number, report
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import TrainedRun, load_run
from tests.conftest import LITTLE, call, mistakes, train
from tests.kindling.analysis.test_leaderboard import make

pytestmark = pytest.mark.plots


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its plots, trained once."""
    from src.kindling.runs import run as runs

    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "LOGS", logs)
        patch.delenv("KINDLING_RUN", raising=False)
        return train("digits", "net.dropout=0.1", "name=first").run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_page_has_result_plots_config_and_commands(digits: Run) -> None:
    page = (digits.path / "report.html").read_text()
    assert len(page) < 5 * 2**20
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]*", page) == []
    accuracy = digits.metrics["test/accuracy"]
    assert f"<b>{accuracy:.4f}</b>" in page
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles[:3] == ["curves", "before and after", "test confusion"]
    assert len(titles) == len(list((digits.path / "plots").glob("*.png")))
    assert titles[-2:] == ["gradients", "layers"]
    layers = (
        page.partition("<figcaption>layers</figcaption>\n<pre>")[2]
        .partition("</pre>")[0]
        .splitlines()
    )
    assert layers[2].split() == ["layer", "kind", "output", "parameters", "FLOPs"]
    assert ["net.head", "Linear", "10", "10,250", "20,480"] in [line.split() for line in layers]
    assert layers[-1].split()[:2] == [
        "all",
        f"{sum(p.numel() for p in digits.task.parameters()):,}",
    ]
    assert re.search(
        r"<pre> +samples +precision +recall +F1\n +0 +\d+ +", page
    )  # the classes' scores as a text
    png = base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", page)[0])
    assert png == (digits.path / "plots" / "curves.png").read_bytes()
    changed = re.findall(
        r'<tr class="changed"><td>(.*?)</td><td>(.*?)</td>', page.replace("<wbr>", "")
    )
    assert ("net.dropout", "0.1") in changed
    assert ("name", "first") in changed
    trained = {
        "trainer.max_epochs",
        *(f"trainer.limit_{stage}_batches" for stage in ("train", "val", "test")),
    }
    assert {key for key, _ in changed} == {"net.dropout", "name", "trainer.accelerator", *trained}
    assert f"python -m src.evaluate {digits.path}" in page
    assert re.search(r"Best val/loss: [\d.]+, after epoch [12] of 2;", page)


def test_report_warns_of_metrics_of_fewer_samples(digits: Run, tmp_path: Path) -> None:
    sentence = "<b>With trainer.limit_test_batches=2, the test metrics may cover fewer samples than"
    assert sentence in " ".join((digits.path / "report.html").read_text().split())
    copy = shutil.copytree(digits.path, tmp_path / "digits" / "copy")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        config.replace("limit_test_batches: 2", "limit_test_batches: null")
    )
    page = report(TrainedRun(copy)).read_text()
    assert "fewer" not in page.partition("95 % intervals:")[2].partition("</p>")[0]


def test_logged_baseline_is_a_column() -> None:
    metrics = {"val/mae": 1.0, "test/mae": 2.0, "test/baseline_mae": 5.0, "test/baseline_r2": 0.0}
    run: Any = None
    rows = [(row["name"], row["test"], row["baseline"]) for row in _results(run, metrics, None)]
    assert rows == [("mae", 2.0, 5.0), ("baseline_r2", 0.0, None)]


def test_intervals_and_baseline(digits: Run) -> None:
    predictions = Predictions.load(digits.path / "predictions" / "test.npz")
    intervals, baseline = metric_intervals(digits, predictions)
    accuracy = accuracy_score(predictions["target"], predictions["prediction"])
    low, high = intervals["accuracy"]
    spread = np.sqrt(accuracy * (1 - accuracy) / len(predictions))
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.25)
    assert baseline["accuracy"] == pytest.approx((predictions["target"] == 3).mean(), abs=0.03)
    assert baseline["auroc"] == pytest.approx(0.5)


def test_intervals_narrow_with_the_root_of_the_sample_size(digits: Run) -> None:
    predictions = Predictions.load(digits.path / "predictions" / "test.npz")
    many = predictions.take(np.tile(np.arange(len(predictions)), 40))  # fewer blocks for AUROC
    few, found = (metric_intervals(digits, some)[0] for some in (predictions, many))
    for name in ("accuracy", "auroc", "f1"):
        (low, high), (low_of_many, high_of_many) = few[name], found[name]
        ratio = (high - low) / (high_of_many - low_of_many)
        assert ratio == pytest.approx(np.sqrt(40), rel=0.35)
    # The same predictions, of 40 samples of each group: nothing is gained.
    many.columns["group"] = np.tile(np.arange(len(predictions)), 40)
    grouped = metric_intervals(digits, many)[0]
    assert grouped["accuracy"] == pytest.approx(few["accuracy"])
    assert grouped["f1"] == pytest.approx(few["f1"])


def test_intervals_of_first_process_do_not_synchronize(
    digits: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = Predictions.load(digits.path / "predictions" / "test.npz")
    alone = metric_intervals(digits, predictions)
    monkeypatch.setattr(
        "torchmetrics.metric.jit_distributed_available", lambda: True
    )  # their group still stands
    assert metric_intervals(digits, predictions) == alone


def test_marks_and_number_formats() -> None:
    row: dict[str, Any] = {"test": 0.9, "interval": (0.8, 1.0), "baseline": 0.1}
    assert _place_marks(row) == {
        "low": 78.2,
        "high": 97.0,
        "test": 87.6,
        "baseline": 12.4,
    }  # of 0 to 1, less the ends of 3 %
    assert _place_marks({**row, "test": 50, "interval": (40, 60), "baseline": 80}) == {
        "low": 3.0,
        "high": 50.0,
        "test": 26.5,
        "baseline": 97.0,
    }
    assert _place_marks({**row, "baseline": float("nan")}) is None
    assert _place_marks({**row, "interval": None}) is None
    assert [
        format_number(value)
        for value in (0.5, 1.0, 0.04878, 45.6447, 1234.0, 98765.4, -0.0, 0.000123, None)
    ] == ["0.5000", "1.0000", "0.0488", "45.64", "1234", "98,765", "-0.0000", "0.000123", ""]


def test_page_of_predictions_without_target(digits: Run, tmp_path: Path) -> None:
    copy = TrainedRun(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    path = copy.path / "predictions" / "test.npz"
    predictions = Predictions.load(path)
    kept = {name: predictions[name] for name in ("index", "probability")}
    Predictions(kept, predictions.spec, "test").save(path)
    page = report(copy).read_text()
    assert "Classes without a" not in page
    assert "Intervals:" not in page


def test_page_bounds_metrics_without_mistakes(digits: Run, tmp_path: Path) -> None:
    copy = TrainedRun(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    path = copy.path / "predictions" / "test.npz"
    predictions = Predictions.load(path)
    predictions.columns["probability"] = np.eye(10, dtype=np.float32)[predictions["target"]]
    predictions.columns["prediction"] = predictions["target"]
    predictions.columns["score"] = np.ones(270, np.float32)
    predictions.columns["group"] = np.arange(270) // 3
    predictions.save(path)
    page = " ".join(report(copy).read_text().split())
    assert "jackknife over the 270 test samples in 90 groups, in at most 100 blocks;" in page
    # Wilson's of 90 in 90, with t of 89 degrees of freedom: 90 / (90 + 1.987²).
    assert page.count("<small>0.9580 to 1.0000</small>") == 5
    del predictions.columns["group"]
    predictions.save(path)
    page = " ".join(report(copy).read_text().split())
    assert "jackknife over the 270 test samples, in at most 100 blocks;" in page
    assert "<small>0.9858 to 1.0000</small>" in page  # 270 / (270 + 1.969²)


def test_large_photographs_are_embedded_as_jpeg(digits: Run, tmp_path: Path) -> None:
    copy = TrainedRun(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    noise = np.random.default_rng(0).integers(0, 256, (600, 1200, 3), np.uint8)
    about = PngInfo()
    about.add_itxt("Kind", "photos")
    for name in ("test_mistakes", "test_uncertain", "test_examples", "before_and_after"):
        Image.fromarray(noise).save(copy.path / "plots" / f"{name}.png", pnginfo=about)
        assert (copy.path / "plots" / f"{name}.png").stat().st_size > 2**21
    page = report(copy).read_text()
    assert len(page) < 5 * 2**20
    assert page.count("data:image/jpeg;base64,") == 4


def test_page_of_regression_and_of_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("diabetes").run
    page = (run.path / "report.html").read_text()
    assert "<td>mae</td>" in page
    assert "test errors" in page

    from src.tasks.classification import Classification

    def broken(self: Classification) -> None:
        if not isinstance(self.trainer.logger, DummyLogger):  # after the rehearsal
            raise RuntimeError("planted <b>")
        self.log_dict(self.val_meter.compute())

    monkeypatch.setattr(Classification, "on_validation_epoch_end", broken)
    with pytest.raises(RuntimeError):
        call("train", "digits", *LITTLE)
    failed = (load_run("latest").path / "report.html").read_text()
    assert "<p>Training: failed</p>" in failed
    assert "RuntimeError: planted &lt;b&gt;" in failed
    assert "No metrics were measured." in failed


def test_report_command(digits: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = digits.path / "report.html"
    before = path.read_text()
    path.unlink()
    call("report", str(digits.path))
    assert f"report     {path} (" in capsys.readouterr().out
    assert path.read_text() == before
    assert "no run yet" in mistakes("report", "latest")[0]


def test_plots_follow_predictions(digits: Run, tmp_path: Path) -> None:
    copy = TrainedRun(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    predictions = Predictions.load(copy.path / "predictions" / "test.npz")
    predictions.columns["prediction"] = 9 - predictions.columns["prediction"]
    figures = digits.task.outputs.plot(predictions)
    before = digits.task.outputs.plot(Predictions.load(digits.path / "predictions" / "test.npz"))
    from tests.kindling.analysis.test_figures import render

    assert not np.array_equal(render(figures["confusion"]), render(before["confusion"]))
    (copy.path / "plots" / "curves.png").unlink()
    assert "<figcaption>curves" not in report(copy).read_text()


def test_plots_of_a_task_follow_the_curves(digits: Run, tmp_path: Path) -> None:
    copy = TrainedRun(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    shutil.copy(copy.path / "plots" / "curves.png", copy.path / "plots" / "test_samples.png")
    titles = re.findall("<figcaption>(.*?)</figcaption>", report(copy).read_text())
    assert titles[:3] == ["curves", "test samples", "before and after"]
    assert titles[-3:] == ["weights", "gradients", "layers"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1300])
def test_page_on_phone_and_in_dark_mode(digits: Run, browser: Any, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(f"file://{digits.path}/report.html")
    assert (
        page.evaluate("document.documentElement.scrollWidth") == width
    )  # nothing moves sideways but in its own frame
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    curves = page.locator("figure", has_text="curves").locator("img")
    natural, shown = curves.evaluate("picture => [picture.naturalWidth, picture.width]")
    with Image.open(digits.path / "plots" / "curves.png") as picture:
        assert natural == picture.width
    assert shown == (
        pytest.approx(0.65 * natural, abs=1) if width == 400 else pytest.approx(970, abs=20)
    )
    assert page.locator("#results .wide").first.is_visible() == (width == 1300)
    page.locator("figure", has_text="test classes").locator("summary").click()
    assert page.get_by_text("precision").last.is_visible()
    page.close()


def test_long_names_and_exports_on_phone(digits: Run, browser: Any, tmp_path: Path) -> None:
    shutil.copytree(digits.path, run := tmp_path / "digits" / "run")
    (run / "export").mkdir(exist_ok=True)
    told = {
        "file": "model.onnx",
        "bytes": 484_000,
        "difference": 5.5e-6,
        "agreement": 1.0,
        "metric": "accuracy",
        "milliseconds": {"1": 1.3, "64": 129.9},
        "before": 0.9815,
        "after": 0.9815,
    }
    (run / "export" / "onnx.json").write_text(json.dumps(told))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {f"{stage}/{'dice_' * 12}background": 0.5 for stage in ("val", "test")}
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(f"file://{report(load_run(run))}")
    assert page.locator("#exports").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 900, "height": 800})
    width = "document.querySelector('#exports').parentNode.scrollWidth"
    assert page.evaluate(width) == 900 - 2 * 16  # its headers wrap
    page.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_comparison_fits_the_page(width: int, logs: Path, tmp_path: Path, browser: Any) -> None:
    names = [f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "f1", "accuracy")]
    for i in range(3):
        config = {f"net.some_long_argument_{k}": f"{i}" + 30 * "x" for k in range(6)}
        config |= {"name": "a long name of a run", "task.optimizer.lr": 10.0**-i}
        make(logs, f"digits/2026-01-02_03-04-0{i}", dict.fromkeys(names, 0.123456), config)
    call("compare", "--html", str(tmp_path / "runs.html"))
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(f"file://{tmp_path / 'runs.html'}")
    edges = "[...document.querySelectorAll('td')].map(cell => cell.getBoundingClientRect().right)"
    assert page.evaluate(f"Math.max(...{edges})") <= width
    assert page.locator("td", has_text="0.01").first.is_visible()
    page.close()


def test_tensorboard_has_curves_plots_and_hparams(digits: Run, browser: Any) -> None:
    board = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(digits.path.parent),
            "--host",
            "127.0.0.1",
            "--port=0",  # a free one, which is printed
            "--load_fast=false",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert board.stderr
        lines = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in board.stderr)
        url = next(found[0] for found in lines if found)
        until = time.monotonic() + 60
        while "val/loss" not in (found := _read(url + "data/plugin/scalars/tags")):
            assert time.monotonic() < until, found
        assert "hp_metric" not in found
        assert "plots/curves" in _read(url + "data/plugin/images/tags")
        page = browser.new_page(viewport={"width": 1300, "height": 1200})
        page.set_default_timeout(60_000)
        page.goto(url + "?tagFilter=val%2Floss#timeseries")
        page.locator("[title='val/loss']").first.wait_for()
        page.locator("scalar-card canvas, scalar-card svg").first.wait_for()
        assert page.get_by_text(digits.path.name).count()
        page.goto(url + "?tagFilter=plots%2Fcurves#timeseries")
        page.locator("image-card img").first.wait_for()
        page.close()
        asked = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
            "colParams": [],
            "startIndex": 0,
            "sliceSize": 10,
        }
        (row,) = json.loads(_read(url + "data/plugin/hparams/session_groups", asked))[
            "sessionGroups"
        ]
        assert row["hparams"]["net.dropout"] == 0.1
        assert {"num_threads", "compile", "task.optimizer.eps"} <= {*row["hparams"]}
        assert "hp_metric" not in row["hparams"]
        values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        assert values["test/accuracy"] == pytest.approx(digits.metrics["test/accuracy"])
        assert values["val_best/loss"] == pytest.approx(digits.metrics["val/loss"])
    finally:
        board.kill()
        board.communicate()


def _read(url: str, asked: dict[str, object] | None = None) -> str:
    request = urllib.request.Request(
        url,
        None if asked is None else json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
