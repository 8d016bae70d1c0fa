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


class MetricsFile(Logger):
    """Writes metrics.csv, and adds to one that is already there.

    Lightning's CSVLogger deletes the file when a run is resumed, and gives validation and training rows of their own;
    here everything that is logged at one step stands in one row.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["epoch", "step"]
        self.written = 0  # rows that the file holds already
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                self.rows = [dict(row) for row in reader]
            self.written = len(self.rows)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step, or begin its row."""
        row = {**metrics, "epoch": int(metrics.get("epoch", 0)), "step": step}
        if len(self.rows) > self.written and self.rows[-1]["step"] == step:
            self.rows[-1].update(row)
        else:
            self._write()
            self.rows.append(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()

    @rank_zero_only
    def save(self) -> None:
        """Lightning calls this after each logged step; a row is written when the next one begins."""

    def _write(self) -> None:
        """Append the finished rows. A new column rewrites the file, beside it first and then in its place."""
        new = [name for row in self.rows[self.written :] for name in row if name not in self.columns]
        if new or not self.path.exists():
            self.columns += dict.fromkeys(new)
            beside = self.path.with_suffix(".tmp")
            with beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(self.rows)
            os.replace(beside, self.path)
        elif len(self.rows) > self.written:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerows(self.rows[self.written :])
        self.written = len(self.rows)
