"""The run's metrics.csv: one row for each logged step, training and validation side by side."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.kindling.training.lightning_internals import DummyExperiment


class MetricsFile(Logger):
    """Writes metrics.csv, and adds to one that is already there.

    Lightning's CSVLogger deletes the file when a run is resumed, and writes validation and
    training to separate rows; here one row holds all values of a step.

    Args:
        path: the CSV file.
        step: where the training starts or resumes; later rows of an existing file are dropped,
            since they will be written again.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["epoch", "step"]
        self.last = 0  # where the last row begins in the file, in bytes
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                rows = [
                    row
                    for row in reader
                    if (row["step"] or "").isdigit() and int(row["step"]) < step
                ]
            self.rows = [{**row, "step": int(row["step"])} for row in rows]
            self._rewrite()

    @property
    def experiment(self) -> Any:
        """Takes what a task hands to each of `self.loggers`, and does nothing."""
        return DummyExperiment()

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step, or begin its row; the file has them at once."""
        row = {**metrics, "epoch": int(metrics.get("epoch", 0)), "step": step}
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
            self.last = self.path.stat().st_size if self.path.exists() else 0
        if new := [name for name in row if name not in self.columns]:
            self.columns += new
        if new or not self.path.exists():
            self._rewrite()
            return
        # The last row only grows: a process killed here leaves the old row, or more of it.
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self.last)
            csv.DictWriter(file, self.columns).writerow(self.rows[-1])
            file.truncate()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Nothing: every row is written."""

    @rank_zero_only
    def save(self) -> None:
        """Nothing: every row is written."""

    def _rewrite(self) -> None:
        """Write the whole file: beside it first, and then in its place."""
        beside = self.path.with_suffix(".tmp")
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            for row in self.rows:
                self.last = file.tell()
                writer.writerow(row)
        os.replace(beside, self.path)
