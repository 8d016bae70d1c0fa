"""Trainings on a real terminal: the table of layers and the bar, with minimal tasks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from src.kindling.config.compose import ROOT
from src.kindling.runs.signals import Interrupted
from src.kindling.training.callbacks.progress import Bar
from tests.conftest import call, kept_runs, train
from tests.terminal import Screen, open_terminal, read_all, standard_output

# A task without `spec`, and one whose `forward` takes something else or is not there.
BARE = """
from lightning.pytorch import LightningModule
from torch import nn, optim


class Bare(LightningModule):
    monitor, mode = "val/loss", "min"

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def step(self, batch):
        return nn.functional.cross_entropy(self.net(batch[0].float()), batch[1])

    def training_step(self, batch, _):
        return self.step(batch)

    def validation_step(self, batch, _):
        self.log("val/loss", self.step(batch), on_epoch=True, batch_size=len(batch[0]))

    test_step = validation_step

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1)


class Pairs(Bare):
    def forward(self, one, two):
        return self.net(one), self.net(two)
"""
LITTLE = (
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=2",
    "num_threads=1",
    "trainer.limit_test_batches=2",
    "trainer.accelerator=cpu",
    "--no-plots",
)


def on_terminal(repository: Path, *argv: str, columns: int = 120) -> tuple[int, Screen]:
    """The status and the screen of `python …` on a pseudo-terminal."""
    reader, program = open_terminal(columns)
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=repository,
        stdin=program,
        stdout=program,
        stderr=program,
        env=environment,
        start_new_session=True,
    )
    os.close(program)
    screen = Screen(columns, read_all(reader))
    return process.wait(), screen


@pytest.mark.parametrize("name", ["Bare", "Pairs"])
@pytest.mark.long
def test_task_without_spec_or_forward_trains_on_terminal(name: str, repository: Path) -> None:
    (repository / "src" / "tasks" / "bare.py").write_text(BARE)
    words = ["net.channels=[4]", f"task._target_=src.tasks.bare.{name}"]
    status, screen = on_terminal(repository, "-m", "src.train", "digits", *words, *LITTLE)
    assert status == 0, screen.text
    assert re.search(r"net\.head +Linear +10 +650 +1,280", screen.text)
    assert screen.find_rows(r"epoch 2/2 .* 3/3 loss \d\S*  val/loss \d\S* .*it/s 0:00:00")


@pytest.mark.long
def test_task_of_the_notebook_trains_on_terminal(repository: Path) -> None:
    cells = json.loads((ROOT / "notebooks" / "04_your_own.ipynb").read_text())["cells"]
    for cell in cells:
        first, _, text = "".join(cell["source"]).partition("\n")
        if first.startswith("%%writefile "):
            (repository / first.removeprefix("%%writefile ")).write_text(text)
    status, screen = on_terminal(repository, "-m", "src.train", "sharpen", *LITTLE)
    assert status == 0, screen.text
    assert re.search(r"^all +15,\d{3} +[\d,]+$", screen.text, re.MULTILINE), screen.text


WIDTHS = (80, 200)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Screen]]:
    """A training of the digits, on terminals of several widths."""
    with kept_runs(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        screens = {}
        for columns in WIDTHS:
            with standard_output(columns, patch) as screens[columns]:
                train("digits", plots=False)
        yield screens


@pytest.mark.parametrize("columns", WIDTHS)
def test_epoch_lines_stay_on_terminal(columns: int, screens: dict[int, Screen]) -> None:
    lines = [row for row in screens[columns].rows if row.startswith("epoch")]
    number = r"\d\.\d{4}"
    start = rf"epoch (\d)/2  val/loss {number}  train/loss {number}  val/accuracy {number}"
    assert [re.match(start, line)[1] for line in lines] == ["1", "2"]  # type: ignore[index]
    assert all(re.search(r"\(\d\.\d s\)$", line) and len(line) <= columns for line in lines)
    names = ("val/f1", "val/auroc", "val/recall", "train/accuracy")
    shown = {name for name in names if all(name in line for line in lines)}
    assert shown == (set(names) if columns == 200 else set())


@pytest.mark.parametrize("columns", WIDTHS)
def test_bar_shows_loss_monitor_rate_and_time_left(
    columns: int, screens: dict[int, Screen]
) -> None:
    screen = screens[columns]
    bars = screen.find_rows("━")
    assert {bar.partition(" ━")[0] for bar in bars} <= {
        "epoch 1/2",
        "epoch 2/2",
        "validation",
        "test",
    }
    assert re.search(r"━ 1/3 loss \d\S*  -:--:--$", next(bar for bar in bars if "1/3" in bar))
    last = [bar for bar in bars if " 3/3 " in bar][-1]
    assert re.search(r" 3/3 loss \S+  val/loss \S+ \d[\d.e+]* it/s 0:00:00$", last)
    assert all(len(bar) <= columns and "…" not in bar for bar in bars)
    assert "it/s" not in screen.text  # the bar is gone


@pytest.mark.parametrize("columns", WIDTHS)
def test_layer_table(columns: int, screens: dict[int, Screen]) -> None:
    rows = [row.split() for row in screens[columns].rows]
    assert ["net.head", "Linear", "10", "10,250", "20,480"] in rows
    (total,) = [row for row in rows if row[:1] == ["all"]]
    assert total[1] == "29,162"


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a Ctrl-C in the middle of a training."""

    def on_train_batch_start(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)

    curves = "src.kindling.training.run_loggers.Curves.on_train_batch_start"
    monkeypatch.setattr(curves, on_train_batch_start, raising=False)


@pytest.mark.parametrize("columns", WIDTHS)
def test_interrupted_training_prints_whole_command(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with standard_output(columns, monkeypatch) as screen, monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(Interrupted):
            call("train", "digits", *LITTLE)
    (run,) = (tmp_path / "logs" / "digits").iterdir()
    command = f"python -m src.train --resume logs/digits/{run.name}"
    assert "".join(screen.rows).endswith(f"SIGINT: stopped; to resume: {command}")
    assert screen.find_rows("━")[-1].startswith("epoch 2/2 ")
    with standard_output(columns, monkeypatch) as screen:
        call("train", "--resume", str(run), "--no-plots")
    assert "/last.ckpt, epoch 2, batch 3 (5 steps)" in screen.text.replace("\n", "")
    assert [row[:9] for row in screen.rows if row.startswith("epoch")] == ["epoch 2/2"]


def test_bar_learns_length_of_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(max_epochs=4, logger=False, accelerator="cpu")
    bar = Bar(None, {})
    assert bar._total(trainer, 10) is None  # a stream of unknown length, in its first epoch
    bar.length = 25
    assert bar._total(trainer, 30) == 100
    trainer.fit_loop.epoch_loop.max_steps = 20
    monkeypatch.setattr(Trainer, "global_step", 10)
    assert bar._total(trainer, 40) == 80  # four batches for a step
