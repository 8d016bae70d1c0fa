"""The page about a run: its numbers, pictures and config; and TensorBoard, both in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from src.predictions import Predictions
from src.report import bootstrap, report
from src.run import Run, load_run
from tests.conftest import LITTLE, call, mistakes, train

pytestmark = pytest.mark.pictures


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its pictures, trained once."""
    from src import run as runs

    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "LOGS", logs)
        patch.delenv("KINDLING_RUN", raising=False)
        return train("digits", "net.dropout=0.1", "name=first").run


def chromium(*arguments: str) -> str:
    """What a headless browser finds on a page."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    done = subprocess.run([program, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
                           *arguments], capture_output=True, text=True)  # fmt: skip
    return done.stdout


def test_the_page_shows_result_pictures_config_and_commands(digits: Run) -> None:
    page = (digits.path / "report.html").read_text()
    assert len(page) < 5 * 2**20
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]*", page) == []
    accuracy = digits.metrics["test/accuracy"]
    assert f"<b>{accuracy:.4g}</b>" in page
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles[:3] == ["curves", "before and after", "test confusion"]
    assert len(titles) == len(list((digits.path / "plots").glob("*.png")))
    png = base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", page)[0])
    assert png == (digits.path / "plots" / "curves.png").read_bytes()
    changed = re.findall(r'<tr class="changed"><td>(.*?)</td><td>(.*?)</td>', page)
    assert ("net.dropout", "0.1") in changed
    assert ("name", "first") in changed
    assert "net._target_" not in dict(changed)
    assert f"python -m src.evaluate {digits.path}" in page
    assert "came in epoch " in page


def test_intervals_and_the_trivial_predictor() -> None:
    run = train("digits").run
    predictions = Predictions.load(run.path / "predictions" / "test.npz")
    intervals, baseline = bootstrap(run, predictions)
    accuracy = accuracy_score(predictions["target"], predictions["prediction"])
    low, high = intervals["accuracy"]
    spread = np.sqrt(accuracy * (1 - accuracy) / len(predictions))
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.25)
    assert baseline["accuracy"] == pytest.approx((predictions["target"] == 3).mean(), abs=0.03)
    assert baseline["auroc"] == pytest.approx(0.5)


def test_regression_and_a_failed_run_have_pages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("diabetes").run
    page = (run.path / "report.html").read_text()
    assert "<td>mae</td>" in page
    assert "test errors" in page

    from src.tasks.classification import Classification

    def broken(*_: object) -> None:
        raise RuntimeError("planted <b>")

    monkeypatch.setattr(Classification, "on_validation_epoch_end", broken)
    with pytest.raises(RuntimeError):
        call("train", "digits", *LITTLE)
    failed = (load_run("latest").path / "report.html").read_text()
    assert "It failed." in failed
    assert "RuntimeError: planted &lt;b&gt;" in failed
    assert "There are no final numbers." in failed


def test_the_command_writes_it_again(digits: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = digits.path / "report.html"
    before = path.read_text()
    path.unlink()
    call("report", str(digits.path))
    assert f"report     {path} (" in capsys.readouterr().out
    assert path.read_text() == before
    assert "no run yet" in mistakes("report", "latest")[0]


def test_a_picture_changes_with_its_data(digits: Run, tmp_path: Path) -> None:
    copy = Run(shutil.copytree(digits.path, tmp_path / "digits" / "copy"))
    predictions = Predictions.load(copy.path / "predictions" / "test.npz")
    predictions.columns["prediction"] = 9 - predictions.columns["prediction"]
    figures = digits.task.figures(predictions)
    before = digits.task.figures(Predictions.load(digits.path / "predictions" / "test.npz"))
    from src.figures import pixels

    assert not np.array_equal(pixels(figures["confusion"]), pixels(before["confusion"]))
    (copy.path / "plots" / "curves.png").unlink()
    assert "<figcaption>curves" not in report(copy).read_text()


def test_a_browser_shows_it_on_a_phone_and_in_the_dark(digits: Run, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    url = f"file://{digits.path}/report.html"
    page = chromium("--window-size=500,900", f"--screenshot={shot}", "--dump-dom", url)
    from PIL import Image

    light = np.asarray(Image.open(shot).convert("L"))
    assert light[:60].mean() > 200
    chromium("--window-size=500,900", f"--screenshot={shot}", "--force-dark-mode",
             "--enable-features=WebContentsForceDark:inversion_method/none", url)  # fmt: skip
    assert np.asarray(Image.open(shot).convert("L"))[:60].mean() < 80
    assert "test confusion" in page or page == ""


def test_tensorboard_shows_curves_pictures_and_hparams(digits: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    board = subprocess.Popen([sys.executable, "-m", "tensorboard.main", "--logdir", str(digits.path.parent), "--host",
                              "127.0.0.1", "--port", str(port), "--load_fast=false"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/"
        until = time.monotonic() + 60
        while "val/loss" not in (found := _read(url + "data/plugin/scalars/tags")):
            assert time.monotonic() < until, found
        assert "hp_metric" not in found
        assert "pictures/curves" in _read(url + "data/plugin/images/tags")
        shown = url + "?tagFilter=val%2Floss#timeseries"
        # On a busy machine the page may be taken before it has asked for its curves.
        while 'title="val/loss"' not in (page := chromium("--window-size=1300,1500", "--dump-dom", shown)):
            assert time.monotonic() < until, page
        assert digits.path.name in page
        assert "<canvas" in page
        asked = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
                 "colParams": [], "startIndex": 0, "sliceSize": 10}  # fmt: skip
        (row,) = json.loads(_read(url + "data/plugin/hparams/session_groups", asked))["sessionGroups"]
        assert row["hparams"]["net.dropout"] == 0.1
        values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        assert values["test/accuracy"] == pytest.approx(digits.metrics["test/accuracy"])
        assert values["best/loss"] == pytest.approx(digits.metrics["val/loss"])
    finally:
        board.kill()
        board.wait()


def _read(url: str, asked: dict[str, object] | None = None) -> str:
    request = urllib.request.Request(url, None if asked is None else json.dumps(asked).encode(),
                                     {"Content-Type": "application/json"})  # fmt: skip
    try:
        with urllib.request.urlopen(request) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
