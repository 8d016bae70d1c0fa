"""Curves show what metrics.csv holds, and overfitting is told where there is some and nowhere else."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from src.kindling.analysis.figures import pixels
from src.kindling.analysis.history import curves, overfitting
from tests.kindling.analysis.test_figures import changed, texts


def metrics_file(path: Path, train: list[float], val: list[float], steps: int = 10) -> Path:
    """A metrics.csv as a run writes it, with the batch's loss in the middle of each epoch."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "step", "train/batch_loss", "lr", "val/loss", "val/accuracy", "train/loss"])
        for epoch, (one, other) in enumerate(zip(train, val, strict=True)):
            rows.writerow([epoch, epoch * steps + steps // 2 - 1, one, 0.1, "", "", ""])
            rows.writerow([epoch, (epoch + 1) * steps - 1, "", "", other, 1 - other / 10, one])
    return path


def test_curves_are_drawn_over_epochs_and_the_best_is_marked(tmp_path: Path) -> None:
    path = metrics_file(tmp_path / "metrics.csv", [3, 2, 1, 0.5], [3, 1, 2, 2.5])
    figure = curves(path, "val/loss", "min")
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy", "lr"]
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert list(lines) == ["batch", "training", "validation", "best: epoch 2"]
    assert np.asarray(lines["batch"].get_xdata()).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert np.asarray(lines["validation"].get_xdata()).tolist() == [1, 2, 3, 4]
    assert np.asarray(lines["validation"].get_ydata()).tolist() == [3, 1, 2, 2.5]
    assert np.asarray(lines["best: epoch 2"].get_xdata()).tolist() == [2, 2]
    of_most = curves(path, "val/accuracy", "max").axes[1].lines[-1]
    assert of_most.get_label() == "best: epoch 2"
    worse = metrics_file(tmp_path / "other.csv", [3, 2, 1, 0.5], [1, 2, 3, 4])
    assert changed(figure, curves(worse, "val/loss", "min"))


@pytest.mark.parametrize("content", ["epoch,step\n", "", "epoch,step,lr\n0,4,0.1\n", "epoch,step,val/loss\n0,4,nan\n"])
def test_curves_of_little_are_drawn(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    assert pixels(curves(path, "val/loss", "min")).std() > 0
    assert overfitting(path) is None
    path.unlink()
    assert texts(curves(path, "val/loss", "min")) == ["Curves: nothing was logged"]


def test_overfitting_is_put_in_words(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    train = [2 / (epoch + 1) for epoch in range(16)]
    val = [2 / (epoch + 1) + 0.1 * max(0, epoch - 5) for epoch in range(16)]
    said = "validation loss rose from epoch 7 on, while training loss fell"
    assert overfitting(metrics_file(path, train, val)) == said
    assert said in texts(curves(path, "val/loss", "min"))
    assert overfitting(metrics_file(path, train, train)) is None
    assert overfitting(metrics_file(path, val, val)) is None  # training rose too
    assert overfitting(metrics_file(path, train[:8], val[:8])) is None  # too early to say


def test_noise_is_not_taken_for_overfitting(tmp_path: Path) -> None:
    path, epochs = tmp_path / "metrics.csv", np.arange(40)
    said = {"flat": 0, "wandering": 0, "rising": 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        train = 2 / (epochs + 1) + random.normal(size=40) * 0.02
        drift = np.zeros(40)
        for epoch in range(1, 40):
            drift[epoch] = 0.7 * drift[epoch - 1] + random.normal() * 0.05
        flat = 2 / (epochs + 1) + 0.3
        noisy = flat + random.normal(size=40) * 0.05
        rising = noisy + 0.02 * np.maximum(0, epochs - 12)
        for name, val in (("flat", noisy), ("wandering", flat + drift), ("rising", rising)):
            said[name] += overfitting(metrics_file(path, train.tolist(), val.tolist())) is not None
    assert said["flat"] == 0
    assert said["wandering"] <= 2
    assert said["rising"] >= 58
