"""Curves show the values of steps.csv, and overfitting is reported only where it occurs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from src.kindling.analysis.history import describe_overfitting, plot_curves, read_metrics
from tests.kindling.analysis.test_figures import changed, render, texts


def metrics_file(run: Path, train: list[float], val: list[float], steps: int = 10) -> Path:
    """A steps.csv as a run writes it, with the batch's loss in the middle of each epoch."""
    with (run / "steps.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["epoch", "step", "train/batch_loss", "lr", "val/loss", "val/accuracy", "train/loss"]
        )
        for epoch, (one, other) in enumerate(zip(train, val, strict=True)):
            rows.writerow([epoch, epoch * steps + steps // 2 - 1, one, 0.1, "", "", ""])
            rows.writerow([epoch, (epoch + 1) * steps - 1, "", "", other, 1 - other / 10, one])
    return run


def test_curves_are_drawn_over_epochs_and_the_best_is_marked(tmp_path: Path) -> None:
    metrics_file(tmp_path, [3, 2, 1, 0.5], [3, 1, 2, 2.5])
    figure = plot_curves(tmp_path, "val/loss", "min")
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy", "lr"]
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert list(lines) == ["batch", "training", "validation", "best: epoch 2"]
    assert np.asarray(lines["batch"].get_xdata()).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert np.asarray(lines["validation"].get_xdata()).tolist() == [1, 2, 3, 4]
    assert np.asarray(lines["validation"].get_ydata()).tolist() == [3, 1, 2, 2.5]
    assert np.asarray(lines["best: epoch 2"].get_xdata()).tolist() == [2, 2]
    of_most = plot_curves(tmp_path, "val/accuracy", "max").axes[1].lines[-1]
    assert of_most.get_label() == "best: epoch 2"
    worse = metrics_file(tmp_path, [3, 2, 1, 0.5], [1, 2, 3, 4])
    assert changed(figure, plot_curves(worse, "val/loss", "min"))


@pytest.mark.parametrize(
    "content", ["epoch,step\n", "", "epoch,step,lr\n0,4,0.1\n", "epoch,step,val/loss\n0,4,nan\n"]
)
def test_curves_of_little_are_drawn(content: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(content)
    assert render(plot_curves(tmp_path, "val/loss", "min")).std() > 0
    assert describe_overfitting(read_metrics(tmp_path)) is None
    path.unlink()
    assert texts(plot_curves(tmp_path, "val/loss", "min")) == ["Curves: nothing was logged"]


def test_overfitting_is_put_in_words(tmp_path: Path) -> None:
    train = [2 / (epoch + 1) for epoch in range(16)]
    val = [2 / (epoch + 1) + 0.1 * max(0, epoch - 5) for epoch in range(16)]
    said = "validation loss rose from epoch 7 on, while training loss fell"
    assert describe_overfitting(read_metrics(metrics_file(tmp_path, train, val))) == said
    assert said in texts(plot_curves(tmp_path, "val/loss", "min"))
    assert describe_overfitting(read_metrics(metrics_file(tmp_path, train, train))) is None
    assert (
        describe_overfitting(read_metrics(metrics_file(tmp_path, val, val))) is None
    )  # training rose too
    assert (
        describe_overfitting(read_metrics(metrics_file(tmp_path, train[:8], val[:8]))) is None
    )  # too early to say


def test_noise_is_not_taken_for_overfitting(tmp_path: Path) -> None:
    epochs = np.arange(40)
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
            metrics_file(tmp_path, train.tolist(), val.tolist())
            said[name] += describe_overfitting(read_metrics(tmp_path)) is not None
    assert said["flat"] == 0
    assert said["wandering"] <= 2
    assert said["rising"] >= 58


def test_metrics_of_any_style_and_damaged_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(
        "epoch,step,val_loss,train_loss_epoch,train_loss_step\n"
        "0,4,2.0,,3\nx,8,1,,\n1,9,1.5,2,\n1,8," + 40 * "3,"
    )
    table = read_metrics(tmp_path)
    assert list(table) == ["epoch", "step", "val/loss", "train/loss", "train/batch_loss", "at"]
    assert table["val/loss"].tolist() == [2.0, 1.5]
    assert table["at"].tolist() == [1, 2]
    labels = [line.get_label() for line in plot_curves(tmp_path, "val_loss", "min").axes[0].lines]
    assert labels == ["batch", "training", "validation", "best: epoch 2"]
    for damage in ("step,val/loss\n4,2.0\n", "", "a"):
        path.write_text(damage)
        assert len(read_metrics(tmp_path)) == 0


def test_own_metrics_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"  # of an earlier version
    path.write_text("epoch,step,perplexity,lr-Adam\n0,4,2.0,0.1\n1,9,1.5,0.1\n")
    titles = [axis.get_title() for axis in plot_curves(tmp_path, "val/loss", "min").axes]
    assert titles == ["perplexity", "lr-Adam"]


@pytest.mark.parametrize("first", [0, 1])  # earlier versions counted from 0
def test_epochs_count_from_one(first: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"epoch,step,val/loss\n{first},4,2.0\n{first},9,1.5\n{first + 1},19,1.0\n")
    table = read_metrics(tmp_path)
    assert table["epoch"].tolist() == [1, 1, 2]
    assert table["at"].tolist() == [0.5, 1, 2]
