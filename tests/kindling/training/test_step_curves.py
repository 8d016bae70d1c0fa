"""The curves within an epoch, and a bar that is drawn by time."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from src.kindling.training.callbacks import progress
from src.tasks.classification import Classification
from tests.conftest import as_own_task, train


def test_loss_and_lr_every_n_steps() -> None:
    run = train(
        "digits",
        "trainer.log_every_n_steps=2",
        "task.optimizer.lr=0.01",
        "trainer.max_epochs=2",
        "task.scheduler={_target_: torch.optim.lr_scheduler.StepLR, step_size: 1, gamma: 0.1}",
    ).run
    with (run.path / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    within = [row for row in rows if row["train/batch_loss"]]
    assert [row["step"] for row in within] == ["0", "1", "2", "3", "5"]
    rates = [0.01, 0.01, 0.01, 0.001, 0.001]
    assert [float(row["lr"]) for row in within] == pytest.approx(rates)
    assert all(0.5 < float(row["train/batch_loss"]) < 5 for row in within)
    assert [row["step"] for row in rows if row["val/loss"]] == ["2", "5"]


class LogsSteps(Classification):
    """Logs a value of each step, as Lightning's `self.log` does in `training_step`."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("step_loss", loss)
        return loss


def test_values_of_steps_are_logged_in_short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("digits", as_own_task(LogsSteps, monkeypatch)).run  # epochs of 3 steps
    for name in ("steps.csv", "metrics.csv"):
        with (run.path / name).open() as file:
            rows = [(row["epoch"], row["step"]) for row in csv.DictReader(file) if row["step_loss"]]
        assert rows == [("1", "2"), ("2", "5")]


def test_bar_is_drawn_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, now = [], [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress.Bar, "_draw", lambda self, **fields: drawn.append(fields))
    bar = progress.Bar(None, {})
    trainer: Any = Trainer(max_epochs=1, logger=False, accelerator="cpu")
    for batch in range(1000):
        now[0] += 0.004  # 4 ms a step
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = batch == 999
        trainer.fit_loop.epoch_loop.batch_progress.total.ready = batch + 1
        bar.on_train_batch_end(trainer, LightningModule(), {"loss": torch.ones(())}, None, batch)
    assert 35 < len(drawn) < 45  # 4 s, ten times a second
    assert [fields["completed"] for fields in (drawn[0], drawn[-1])] == [1, 1000]
    assert drawn[-1] == {"completed": 1000, "total": None, "batches": "1000", "values": "loss 1"}


def test_profiler_of_the_config() -> None:
    from src.kindling.training.trainer import build_evaluator
    from tests.conftest import checked

    trainer = build_evaluator(checked("digits", "trainer.profiler=simple"), None, DummyLogger())
    assert type(trainer.profiler).__name__ == "SimpleProfiler"
