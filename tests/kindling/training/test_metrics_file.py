"""metrics.csv has a row for each epoch, steps.csv one for each logged step; both are continued."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from src.kindling.training.run_loggers import GrowingCSV, MetricsFiles
from tests.conftest import train


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_one_row_per_epoch_and_one_per_step(tmp_path: Path) -> None:
    file = MetricsFiles(tmp_path, 0)
    file.log_metrics({"epoch": 0, "train/batch_loss": 3.0, "lr": 0.5}, step=4)
    file.log_metrics({"epoch": 0, "train_loss_step": 3.0}, step=4)
    file.log_metrics({"epoch": 0, "val/loss": 2.5}, step=7)
    file.log_metrics({"epoch": 0, "val/loss": 2.0}, step=9)
    file.log_metrics({"epoch": 0, "train/loss": 1.0}, step=9)
    file.log_metrics({"epoch": 1, "val/loss": 1.5, "lr": 0.25}, step=19)
    assert lines(tmp_path / "metrics.csv") == [
        "epoch,step,lr,val/loss,train/loss",
        "1,9,0.5,2.0,1.0",
        "2,19,0.25,1.5,",
    ]
    assert lines(tmp_path / "steps.csv") == [
        "epoch,step,train/batch_loss,lr,train_loss_step,val/loss,train/loss",
        "1,4,3.0,0.5,3.0,,",
        "1,7,,,,2.5,",
        "1,9,,,,2.0,1.0",
        "2,19,,0.25,,1.5,",
    ]
    assert not list(tmp_path.glob("*.tmp"))


def test_row_is_written_at_once_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    file = GrowingCSV(path, "step", [])
    file.add({"epoch": "0", "step": "1", "lr": 0.5})
    file.add({"epoch": "0", "step": "1", "val/loss": 2.0})
    file.add({"epoch": "0", "step": "3", "lr": 0.25})
    assert lines(path) == ["epoch,step,lr,val/loss", "0,1,0.5,2.0", "0,3,0.25,"]
    file.add({"epoch": "0", "step": "3", "val/loss": 1.0})
    assert lines(path) == ["epoch,step,lr,val/loss", "0,1,0.5,2.0", "0,3,0.25,1.0"]


def test_resume_drops_later_rows_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text(
        "epoch,step,lr,val/loss\r\n0,1,0.5,2.0\r\n0,3,0.25,\r\n0,5,0.1,9.0\r\n0,6"
    )  # killed within a row
    (tmp_path / "metrics.csv").write_text("epoch,step,lr,val/loss\r\n0,5,0.1,9.0\r\n")
    file = MetricsFiles(tmp_path, 4)
    assert lines(tmp_path / "steps.csv") == ["epoch,step,lr,val/loss", "1,1,0.5,2.0", "1,3,0.25,"]
    assert lines(tmp_path / "metrics.csv") == ["epoch,step,lr,val/loss", "1,3,0.25,2.0"]
    file.log_metrics({"epoch": 0, "val/loss": 1.5}, step=3)
    file.log_metrics({"epoch": 1, "lr": 0.1}, step=5)
    assert lines(tmp_path / "steps.csv")[2:] == ["1,3,0.25,1.5", "2,5,0.1,"]
    assert lines(tmp_path / "metrics.csv")[1:] == ["1,3,0.25,1.5", "2,5,0.1,"]


def test_resume_of_earlier_version_splits_its_file_and_counts_from_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    before = "epoch,step,train/batch_loss,val/loss\n0,4,3.0,\n0,9,,2.0\n1,14,2.5,\n"
    path.write_text(before)
    MetricsFiles(tmp_path, 20)
    after = ["epoch,step,train/batch_loss,val/loss", "1,4,3.0,", "1,9,,2.0", "2,14,2.5,"]
    assert lines(tmp_path / "steps.csv") == after
    assert lines(path) == ["epoch,step,val/loss", "1,9,2.0", "2,14,"]


def test_epochs_of_training_have_one_row_each() -> None:
    words = ("trainer.log_every_n_steps=1", "trainer.val_check_interval=0.5")
    run = train("digits", *words, "trainer.limit_train_batches=4").run
    header, *rows = lines(run.path / "metrics.csv")
    assert [row.split(",")[:2] for row in rows] == [["1", "3"], ["2", "7"]]
    assert {"lr", "train/loss", "val/loss"} <= {*header.split(",")}
    assert "train/batch_loss" not in header
    header, *rows = lines(run.path / "steps.csv")
    assert [row.split(",")[1] for row in rows] == [str(step) for step in range(8)]
    at = header.split(",").index("val/loss")
    assert [bool(row.split(",")[at]) for row in rows] == 4 * [False, True]


def test_other_processes_leave_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MetricsFiles(tmp_path, 0).log_metrics({"epoch": 0, "val/loss": 1.0}, step=9)
    before = (tmp_path / "metrics.csv").read_text()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    MetricsFiles(tmp_path, 0)  # as if the training began again
    assert (tmp_path / "metrics.csv").read_text() == before
