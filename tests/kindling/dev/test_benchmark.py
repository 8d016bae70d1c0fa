"""The benchmark's form: what it measures, how the parts add up, what it advises. No test asserts a speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.data.digits import Digits
from src.kindling.config.compose import ROOT
from src.kindling.dev.benchmark import benchmark
from src.kindling.dev.benchmark_report import LABELS, advise
from tests.conftest import call, checked, mistakes


def test_benchmark_report_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "num_threads=1",
        "--rounds",
        "1",
        "--seconds",
        "0.1",
        "--against",
        "raw",
        "--json",
        str(tmp_path / "a.json"),
    ]
    report = call("benchmark", "digits", *words)
    assert json.loads((tmp_path / "a.json").read_text()) == report
    measured = [
        name for name in LABELS if name not in ("copy", "augmentation")
    ]  # nothing to copy or to vary here
    assert list(report["rates"]) == measured  # type: ignore[index]
    assert all(rate > 0 for rate in report["rates"].values())  # type: ignore[index]
    whole = 1000 * 64 / report["rates"]["fit"]  # type: ignore[index]
    assert sum(report["milliseconds"].values()) == pytest.approx(whole)  # type: ignore[index]
    assert report["ratios"]["fit / raw"] == pytest.approx(
        report["rates"]["fit"] / report["rates"]["raw"]
    )  # type: ignore[index]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits on cpu, 1 thread, 0 workers, batches of 64"
    assert [line for line in lines if line.startswith("the whole fit")]
    assert [line for line in lines if line.startswith("peak memory")]


@pytest.mark.parametrize("name", ["diabetes"])
@pytest.mark.long
def test_benchmark_of_tables_counts_rows(name: str) -> None:
    report = benchmark(checked(name, "num_threads=1"), rounds=1, seconds=0.05, raw=True)
    assert report["unit"] == "rows/s"


@pytest.mark.long
def test_benchmark_measures_augmentation() -> None:
    config = checked(
        "digits",
        "num_threads=1",
        "data.train_transforms=[{_target_: src.kindling.data.augment.RandomRotation, degrees: 10}]",
    )
    report = benchmark(config, rounds=1, seconds=0.05)
    goes = report["milliseconds"]
    assert goes["preprocessing and augmentation"] == pytest.approx(
        1000 * 64 / report["rates"]["augmentation"]
    )
    assert "metrics" in goes
    assert "preprocessing and metrics" not in goes


def test_benchmark_advice() -> None:
    data = Digits()
    data.setup()
    goes = {
        "net, loss, optimizer": 1.0,
        "callbacks": 0.25,
        "logging": 0.25,
        "Lightning's loop": 1.0,
    }
    assert list(advise(data, {"loader": 3100, "step": 9800}, goes)) == [
        "the data loader gives 3,100 images/s, the training step takes 9,800: set num_threads=1, which leaves cores for more workers",
        "the loop takes longer than the net: set a larger data.batch_size, for fewer steps",
    ]
    assert (
        list(advise(data, {"loader": 9800, "step": 3100}, {**goes, "net, loss, optimizer": 9.0}))
        == []
    )


def test_invalid_flags() -> None:
    assert mistakes("benchmark", "digits", "--rounds", "0") == [
        "--rounds 0 --seconds 2: expected numbers above 0"
    ]
    assert mistakes("benchmark", "digits", "--against", "rav")[0].startswith(
        "--against: invalid choice: 'rav'"
    )


@pytest.mark.long
def test_command_runs_without_the_resource_module() -> None:
    code = (
        "import sys; sys.modules['resource'] = None; import src.benchmark, src.kindling.dev.benchmark; "
        "from src.kindling.dev.benchmark_report import _peak_memory; assert _peak_memory() is None"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
