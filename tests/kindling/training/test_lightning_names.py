"""A task that logs `val_loss`, as Lightning's tutorials do, is shown as one that logs `val/loss`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from lightning.pytorch import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from src.kindling.runs.run import Run
from src.kindling.training.launch import print_metrics
from tests.conftest import as_own_task, call, copied, kept_runs, train


class Tutorial(LightningModule):
    """A classifier as in Lightning's tutorials."""

    def __init__(self, net: nn.Module, lr: float = 0.01) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.val_acc, self.test_acc = MulticlassAccuracy(10), MulticlassAccuracy(10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.logger.experiment.add_scalar("mine", loss, self.global_step)  # type: ignore[union-attr]
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))
        self.val_acc(self.net(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.test_acc(self.net(batch[0]), batch[1])
        self.log("test_acc", self.test_acc)
        board = self.logger.experiment  # type: ignore[union-attr]
        board.add_image("first", batch[0][0], self.global_step)
        board.add_histogram("inputs", batch[0], self.global_step)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@pytest.fixture(scope="module")
def word() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        yield as_own_task(Tutorial, patch)


@pytest.fixture(scope="module")
def trained(word: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with kept_runs(tmp_path_factory):
        yield train("digits", word, "net=mlp").run


def test_epoch_line_has_lightning_names(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", word, "net=mlp")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for line in lines:
        assert re.findall(r"[a-z_/]+(?= \d\.\d{4})", line) == ["val_loss", "train_loss", "val_acc"]


def test_table_of_metrics_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics({"val_loss": 0.25, "test_loss": 0.5, "test_acc_epoch": 0.75, "metrics/top1": 1.0})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["metric", "val", "test", "value"],
        ["loss", "0.2500", "0.5000"],
        ["acc", "0.7500"],
        ["metrics/top1", "1.0000"],
    ]


def test_reproduce_measures_lightning_names(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    call("reproduce", str(copied(trained).path))
    assert "identical  metrics.json equals" in capsys.readouterr().out


def test_hparams_row_has_best_of_lightning_names(trained: Run) -> None:
    events = EventAccumulator(str(trained.path)).Reload()
    for metric in ("loss", "acc"):
        (best,) = events.Scalars(f"val_best/{metric}")
        assert best.value == pytest.approx(trained.metrics[f"val_{metric}"])
    (tested,) = events.Scalars("test_acc")
    assert tested.value == pytest.approx(trained.metrics["test_acc"])


def test_experiment_is_tensorboards_writer_while_testing(trained: Run) -> None:
    run = copied(trained)
    call("evaluate", str(run.path))
    for folder in (run.path, run.path / "evaluation"):
        tags = EventAccumulator(str(folder)).Reload().Tags()
        assert "first" in tags["images"]
        assert "inputs" in tags["histograms"]
    assert tags["scalars"] == []  # evaluation.json has the numbers


def test_range_test_of_task_that_writes_to_experiment(word: str) -> None:
    call("train", "digits", word, "net=mlp", "--find", "lr")
