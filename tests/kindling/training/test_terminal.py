"""Trainings on a real terminal: the table of layers and the bar, with minimal tasks."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.kindling.config.compose import ROOT

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
    "--no-pictures",
)


def on_terminal(repository: Path, *argv: str) -> tuple[int, str]:
    """The status and the screen of `python …` on a pseudo-terminal, without colors."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=repository,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    screen = b""
    try:
        while chunk := os.read(master, 65536):
            screen += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())


@pytest.mark.parametrize("name", ["Bare", "Pairs"])
@pytest.mark.long
def test_task_without_spec_or_forward_trains_on_terminal(name: str, repository: Path) -> None:
    (repository / "src" / "tasks" / "bare.py").write_text(BARE)
    words = ["net.channels=[4]", f"task._target_=src.tasks.bare.{name}"]
    status, screen = on_terminal(repository, "-m", "src.train", "digits", *words, *LITTLE)
    assert status == 0, screen
    assert re.search(r"net\.head +│ Linear +│ +650 │ train", screen)
    assert "In sizes" not in screen
    assert re.search(r"Epoch 1/1 .* 3/3 .*val/loss: \d\.\d+", screen)


def test_task_of_the_notebook_trains_on_terminal(repository: Path) -> None:
    cells = json.loads((ROOT / "notebooks" / "04_your_own.ipynb").read_text())["cells"]
    for cell in cells:
        first, _, text = "".join(cell["source"]).partition("\n")
        if first.startswith("%%writefile "):
            (repository / first.removeprefix("%%writefile ")).write_text(text)
    status, screen = on_terminal(repository, "-m", "src.train", "sharpen", *LITTLE)
    assert status == 0, screen
    assert re.search(
        r"net +│ Painter +│ 15\.6 K │ train │ [\d.]+ M │ \[1, 1, (\d+), \1\] │ \[1, 1, \1, \1\]",
        screen,
    ), screen
