"""The benchmark's form: what it measures, how the parts add up, what it advises. No test asserts a speed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.data.digits import Digits
from src.kindling.config.compose import ROOT
from src.kindling.dev.benchmark import benchmark, repeat_rounds
from src.kindling.dev.benchmark_report import LABELS, MODEL, Round, advise, build_report
from src.kindling.dev.step_profiler import LOOP, StepProfiler
from tests.conftest import as_own_task, call, checked, mistakes


def test_benchmark_report_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    words = ("--rounds", "1", "--seconds", "0.1", "--against", "raw", "--json", str(path))
    report: Any = call("benchmark", "digits", "num_threads=1", *words)
    assert json.loads(path.read_text()) == report
    assert list(report["rates"]) == list(LABELS)
    assert all(rate > 0 for rate in report["rates"].values())
    whole = 1000 * 64 / report["rates"]["fit"]
    assert sum(report["milliseconds"].values()) == pytest.approx(whole)
    assert {
        "data",
        "net and loss",
        "backward",
        "optimizer",
        "metrics",
        "callbacks",
        "logging",
        LOOP,
    } < {*report["milliseconds"]}
    assert min(report["milliseconds"].values()) > 0
    assert report["ratios"]["fit / raw"] == report["rates"]["fit"] / report["rates"]["raw"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "measuring for about 0.1 s",
        "digits on cpu, 1 thread, 0 workers, batches of 64",
        "medians of 1 round, and their range",
    ]
    assert [line for line in lines if line.startswith("the whole fit")]
    assert [line for line in lines if line.startswith("all parts: the whole step")]
    assert [line for line in lines if line.startswith("peak memory")]
    assert report["advice"][-1].endswith("set a larger --rounds or --seconds")


def test_benchmark_report_has_medians_and_their_range() -> None:
    data = Digits()
    data.setup()
    rounds = [
        Round({"model_only": 1000.0, "loader": 9000.0, "fit": 640.0}, {"data": 1.0, LOOP: 3.0}, 20),
        Round({"model_only": 1000.0, "loader": 9000.0, "fit": 320.0}, {"data": 2.0, LOOP: 2.0}, 20),
        Round({"model_only": 800.0, "loader": 9000.0, "fit": 600.0}, {LOOP: 9.0}, 20),
    ]
    rounds = [replace(one, parts=one.parts | dict.fromkeys(MODEL, 0.0)) for one in rounds]
    report = build_report(checked("digits"), data, rounds, "cpu")
    assert report["batches_per_epoch"] == 20
    assert (report["rates"]["fit"], report["range"]["rates"]["fit"]) == (600, [320, 640])
    assert report["ratios"] == {"fit / model_only": 0.64}
    assert report["range"]["ratios"] == {"fit / model_only": [0.32, 0.75]}
    step = 1000 * 64 / 600
    assert report["milliseconds"]["data"] == pytest.approx(step * (1 / 4 + 1 / 2 + 0) / 3)
    assert report["range"]["milliseconds"]["data"] == pytest.approx([0, step / 2])
    assert sum(report["milliseconds"].values()) == pytest.approx(step)


@pytest.mark.parametrize(
    ("cost", "count", "end"),
    [
        (1.0, 5, 50.0),  # planned: 5 rounds of 0.8 * 58 / 5 s, after one of 2 s
        (2.0, 2, 60.0),  # each takes twice as long as planned
        (40.0, 1, 80.0),  # only the first, which is kept
    ],
)
def test_benchmark_ends_in_time(cost: float, count: int, end: float) -> None:
    now = 0.0

    def measure(seconds: float) -> float:
        nonlocal now
        now += cost * seconds
        return now

    found = repeat_rounds(measure, rounds=5, until=60.0, clock=lambda: now)
    assert (len(found), now <= end) == (count, True)


def test_step_profiler_counts_each_moment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    profiler = StepProfiler(torch.device("cpu"))
    with profiler.profile("[LightningModule]Mine.optimizer_step"):
        with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
            pass
        with profiler.profile("[Callback]Guard.on_before_zero_grad"):
            pass
    with profiler.profile("run_training_batch"):
        pass
    assert profiler.seconds == {LOOP: 3, "optimizer": 3, "net and loss": 1, "callbacks": 1}


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
    assert report["milliseconds"]["preprocessing and augmentation"] > 0


def test_benchmark_advice() -> None:
    data = Digits()
    data.setup()
    times = dict.fromkeys([*MODEL, LOOP], 0.5) | {"callbacks": 0.6, "logging": 0.6}
    report: dict[str, Any] = {
        "rates": {"loader": 3100, "model_only": 9800},
        "milliseconds": times,
        "unit": "images/s",
        "rounds": 5,
    }
    assert list(advise(data, report)) == [
        "the data loader gives 3,100 images/s, the model takes 9,800: set num_threads=1, which leaves cores for more workers",
        "the loop takes longer than the net: set a larger data.batch_size, for fewer steps",
    ]
    report["rates"]["model_only"], times["backward"] = 1000, 9.0
    assert list(advise(data, report)) == []


def test_invalid_flags() -> None:
    assert mistakes("benchmark", "digits", "--rounds", "0") == [
        "--rounds 0 --seconds 60: expected numbers above 0"
    ]
    assert mistakes("benchmark", "digits", "--json", "/nowhere/speed.json") == [
        "--json /nowhere/speed.json: its folder does not exist; make it first"
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


def test_task_without_kindlings_attributes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Functional(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.loss, self.optimizer = nn.CrossEntropyLoss(), torch.optim.SGD

    assert mistakes("benchmark", "digits", "net=null", as_own_task(Functional, monkeypatch)) == [
        "task: src.benchmark measures net and loss; call both in training_step"
    ]
    assert mistakes("benchmark", "digits", "net=null", as_own_task(Plain, monkeypatch)) == [
        "task: src.benchmark needs the attributes net, loss and optimizer; add loss and optimizer to Plain, as in src/tasks/classification.py"
    ]
    assert "measuring" not in capsys.readouterr().out
