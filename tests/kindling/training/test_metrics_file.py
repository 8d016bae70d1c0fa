"""metrics.csv: rows by step, new columns, and a file that is continued."""

from __future__ import annotations

from pathlib import Path

from src.kindling.training.run_loggers import MetricsFile


def test_one_row_per_step_and_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path, 0)
    file.log_metrics({"epoch": 0, "val/loss": 2.0}, step=9)
    file.log_metrics({"epoch": 0, "train/loss": 1.0}, step=9)
    file.log_metrics({"epoch": 1, "val/loss": 1.5}, step=19)
    file.log_metrics({"epoch": 2, "extra": 7.0}, step=29)
    file.finalize("success")
    assert path.read_text().splitlines() == [
        "epoch,step,val/loss,train/loss,extra",
        "1,9,2.0,1.0,",
        "2,19,1.5,,",
        "3,29,,,7.0",
    ]
    more = MetricsFile(path, 30)
    more.log_metrics({"epoch": 3, "val/loss": 1.0}, step=39)
    more.finalize("success")
    assert path.read_text().splitlines()[-2:] == ["3,29,,,7.0", "4,39,1.0,,"]
    assert not list(tmp_path.glob("*.tmp"))


def test_row_is_written_at_once_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path, 0)
    file.log_metrics({"epoch": 0, "lr": 0.5}, step=1)
    file.log_metrics({"epoch": 0, "val/loss": 2.0}, step=1)
    file.log_metrics({"epoch": 0, "lr": 0.25}, step=3)
    assert path.read_text().splitlines() == ["epoch,step,lr,val/loss", "1,1,0.5,2.0", "1,3,0.25,"]
    file.log_metrics({"epoch": 0, "val/loss": 1.0}, step=3)
    assert path.read_text().splitlines() == [
        "epoch,step,lr,val/loss",
        "1,1,0.5,2.0",
        "1,3,0.25,1.0",
    ]


def test_resume_drops_later_rows_and_counts_epochs_from_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,lr,val/loss\r\n0,1,0.5,2.0\r\n0,3,0.25,\r\n0,5,0.1"
    )  # killed within a row
    file = MetricsFile(path, 4)
    assert path.read_text().splitlines() == ["epoch,step,lr,val/loss", "1,1,0.5,2.0", "1,3,0.25,"]
    file.log_metrics({"epoch": 0, "val/loss": 1.5}, step=3)
    file.log_metrics({"epoch": 1, "lr": 0.1}, step=5)
    assert path.read_text().splitlines()[2:] == ["1,3,0.25,1.5", "2,5,0.1,"]
