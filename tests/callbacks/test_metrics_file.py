"""metrics.csv: rows by step, new columns, and a file that is continued."""

from __future__ import annotations

from pathlib import Path

from src.callbacks.metrics_file import MetricsFile


def test_one_row_a_step_and_new_columns_keep_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.log_metrics({"epoch": 0, "val/loss": 2.0}, step=9)
    file.log_metrics({"epoch": 0, "train/loss": 1.0}, step=9)
    file.log_metrics({"epoch": 1, "val/loss": 1.5}, step=19)
    file.log_metrics({"epoch": 2, "extra": 7.0}, step=29)
    file.finalize("success")
    assert path.read_text().splitlines() == [
        "epoch,step,val/loss,train/loss,extra", "0,9,2.0,1.0,", "1,19,1.5,,", "2,29,,,7.0"]  # fmt: skip
    more = MetricsFile(path)
    more.log_metrics({"epoch": 3, "val/loss": 1.0}, step=39)
    more.finalize("success")
    assert path.read_text().splitlines()[-2:] == ["2,29,,,7.0", "3,39,1.0,,"]
    assert not list(tmp_path.glob("*.tmp"))
