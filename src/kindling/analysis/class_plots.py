"""Plots of predicted classes: confusions, scores of each class, ROC and PR curves, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn import metrics
from torchmetrics.functional.classification import binary_calibration_error

from src.kindling.analysis.drawing import (
    BLUE,
    GREY,
    ORANGE,
    create_panels,
    draw_message,
    format_table,
    set_titles,
    shorten_label,
)
from src.kindling.analysis.predictions import Array

CLASSES, CURVES = 20, 10  # of one plot; its title says where these are not all
RANKED = 100_000  # rows of a ROC curve, drawn at random


def plot_confusion(target: Array, predicted: Array, names: Sequence[str]) -> Figure:
    """Plot how often each class was predicted as which; shades are shares of the true class."""
    counts = metrics.confusion_matrix(target, predicted, labels=np.arange(len(names)))
    return plot_confusion_counts(counts, names, "samples")


def plot_confusion_counts(counts: Array, names: Sequence[str], unit: str) -> Figure:
    """Plot counts `(classes, classes)` of samples or pixels, a row for each true class."""
    count = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    step = -(-count // 100)
    labels = [shorten_label(name, 18) for name in names[::step]]
    side, longest, listed = min(max(0.5 * count, 2.4), 9.0), max(map(len, labels)), count > 12
    size = min(9.0, 60 * side / len(labels))
    margin, right = 0.6 + 0.009 * size * longest, 4.2 if listed else 0.8
    figure, (axis,) = create_panels(1, side, side, left=margin, bottom=margin, right=right)
    # The square root makes rare mistakes visible: 4 % are as dark as a fifth.
    norm = PowerNorm(0.5, 0, 1)
    axis.imshow(shares, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    title = f"Confusion: {accuracy:.1%} of {counts.sum():,} correct"
    set_titles(axis, title, "predicted", "true", "left")
    too_wide = longest * 0.0085 * size > side / len(labels)
    axis.set_xticks(range(0, count, step), labels, rotation=90 if too_wide else 0, fontsize=size)
    axis.set_yticks(range(0, count, step), labels, fontsize=size)
    for t, p in np.argwhere(counts) if count <= CLASSES else ():
        text = f"{counts[t, p]:,}" if listed else f"{counts[t, p]:,}\n{shares[t, p]:.0%}"
        color = "white" if shares[t, p] > 0.3 else "black"
        axis.text(p, t, text, ha="center", va="center", fontsize=7.5, color=color)
    if listed:
        text = _format_confusions(counts, shares, names, unit)
        style = {"va": "top", "family": "monospace", "fontsize": 7.5}
        axis.text(1.02, 1, text, style, transform=axis.transAxes)
    return figure


def _format_confusions(counts: Array, shares: Array, names: Sequence[str], unit: str) -> str:
    wrong = counts - np.diag(np.diag(counts))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:25]
    pairs = [(t, p) for t, p in zip(*np.unravel_index(largest, wrong.shape), strict=True)]
    pairs = [pair for pair in pairs if wrong[pair]]
    short = [shorten_label(name, 14) for name in names]
    columns = {
        unit: [f"{wrong[pair]:,}" for pair in pairs],
        "share": [f"{shares[pair]:.0%}" for pair in pairs],
        "true → predicted": [f"{short[t]} → {short[p]}" for t, p in pairs],
    }
    return format_table(columns)


def plot_class_scores(target: Array, predicted: Array, names: Sequence[str]) -> Figure:
    """Plot precision, recall and F1 of each class, or of the worst ones where there are many."""
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        target, predicted, labels=np.arange(len(names)), zero_division=0
    )
    scores = {"precision": precision, "recall": recall, "F1": f1}
    return plot_scores(scores, support, names, "samples")


def plot_scores(
    scores: Mapping[str, Array], support: Array, names: Sequence[str], unit: str
) -> Figure:
    """Plot up to three scores `(classes,)` from 0 to 1, by name; the last one selects the worst.

    Args:
        support: number of samples or pixels of each class.
        unit: what `support` counts.
    """
    ranking = list(scores)[-1]
    chosen = list(range(len(names)))
    title = f"Classes ({unit})"
    if len(names) > CLASSES:
        chosen = np.lexsort((scores[ranking], support == 0))[:CLASSES].tolist()
        title = f"The lowest {ranking} of {len(names)} classes ({unit})"
    labels = [f"{shorten_label(names[i])} ({support[i]:,})" for i in chosen]
    left, right = 0.4 + 0.075 * max(map(len, labels)), 0.3 + 0.6 * len(scores)
    height = 0.3 + 0.27 * len(chosen)
    figure, (axis,) = create_panels(1, 3.6, height, left=left, top=0.6, right=right)
    rows = range(len(chosen))
    styles = (("<", BLUE), (">", ORANGE), ("|", "black"))[-len(scores) :]
    columns = {"": list(names), unit: [f"{n:,}" for n in support]}
    for place, ((name, values), (marker, color)) in enumerate(
        zip(scores.items(), styles, strict=True)
    ):
        axis.scatter(values[chosen], rows, marker=marker, color=color, label=name, s=45, zorder=2)
        columns[name] = [f"{value:.3f}" for value in values]
        style = {"ha": "right", "va": "center", "fontsize": 8, "color": color}
        for row, text in enumerate([name, *(columns[name][i] for i in chosen)], start=-1):
            at = axis.get_yaxis_transform()
            axis.text(1.18 + 0.165 * place, row, text, style, transform=at)
    axis.hlines(rows, 0, scores[ranking][chosen], color="0.88", linewidth=5, zorder=1)
    axis.set_yticks(rows, labels)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(chosen) - 0.4, -0.6))
    anchor = (-0.03, 0.98)
    axis.legend(loc="lower left", bbox_to_anchor=anchor, ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.set_label(format_table(columns))
    return figure


def plot_roc_and_pr(target: Array, probability: Array, names: Sequence[str]) -> Figure:
    """Plot ROC and precision-recall curves of each class, or of the second of two classes.

    Args:
        target: class numbers `(N,)`, or labels, 0 or 1, `(N, classes)`.
        probability: `(N, classes)`.
    """
    finite = np.flatnonzero(np.isfinite(probability).all(axis=1))
    rows = np.random.default_rng(0).permutation(finite)[:RANKED]
    if not len(rows):
        return draw_message("ROC: no finite probability")
    part = f" ({len(rows):,} of {len(target):,} samples)" if len(rows) < len(target) else ""
    target, probability = target[rows], probability[rows]
    truth = target == 1 if target.ndim == 2 else target[:, None] == np.arange(len(names))
    support = truth.sum(axis=0)
    chosen = [1] if len(names) == 2 and target.ndim == 1 else list(range(len(names)))
    worst = ""
    if len(names) > CURVES:
        predicted = probability > 0.5 if target.ndim == 2 else probability.argmax(axis=1)
        f1 = metrics.f1_score(target, predicted, labels=chosen, average=None, zero_division=0)
        chosen = np.lexsort((f1, support == 0))[:CURVES].tolist()
        worst = f" ({CURVES} of {len(names)} classes, lowest F1)"
    figure, (roc, pr) = create_panels(2, 4.4, 3.8, across=2)
    for i in chosen:
        name, true, score = shorten_label(names[i]), truth[:, i], probability[:, i]
        if support[i] in (0, len(target)):
            missing = f"none: {name} ({'all' if support[i] else 'no'} samples)"
            roc.plot([], label=missing)
            pr.plot([], label=missing)
            continue
        x, y, _ = metrics.roc_curve(true, score)
        roc.plot(x, y, label=f"{metrics.auc(x, y):.3f}  {name}")
        precision, recall, _ = metrics.precision_recall_curve(true, score, drop_intermediate=True)
        average = metrics.average_precision_score(true, score)
        pr.plot(recall, precision, label=f"{average:.3f}  {name}")
    roc.plot([0, 1], [0, 1], ":", color=GREY)
    set_titles(roc, f"ROC{part}", "false positive rate", "true positive rate")
    set_titles(pr, f"Precision and recall{worst}", "recall", "precision")
    for axis in (roc, pr):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    roc.legend(title="AUC  class", fontsize=7, title_fontsize=8, loc="lower right")
    pr.legend(title="AP  class", fontsize=7, title_fontsize=8, loc="lower left")
    return figure


def plot_calibration(confidence: Array, correct: Array, meaning: str, bins: int = 15) -> Figure:
    """Plot how often events of a predicted probability occur, and how often it is predicted.

    Args:
        confidence, correct: probabilities, and whether the event occurred, `(N,)` each.
        meaning: what the probability is of.
        bins: of equal width, for the plot and the expected calibration error.
    """
    rows = np.isfinite(confidence)
    if not rows.any():
        return draw_message("Calibration: no finite probability")
    claimed, hit = confidence[rows].clip(0, 1), correct[rows].astype(np.int64)  # softmax rounds
    error = binary_calibration_error(torch.from_numpy(claimed), torch.from_numpy(hit), bins)
    edges = np.linspace(0, 1, bins + 1)
    counts, hits, sums = (
        np.histogram(claimed, edges, weights=weights)[0] for weights in (None, hit, claimed)
    )
    filled = counts > 0
    n, share = counts[filled], hits[filled] / counts[filled]
    figure, (axis, below) = create_panels(2, 3.8, 3.8, across=2)
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    axis.bar(edges[:-1][filled], share, 1 / bins, align="edge", alpha=0.3, edgecolor="white")
    # Wilson's interval shows how little a bin of three samples means.
    tests = [binomtest(int(k), int(m)) for k, m in zip(hits[filled], n, strict=True)]
    low, high = np.array([test.proportion_ci(method="wilson") for test in tests]).T
    reach = np.maximum([share - low, high - share], 0)
    means, interval = sums[filled] / n, "95 % confidence interval"
    axis.errorbar(means, share, reach, fmt="o", markersize=4, color=BLUE, label=interval)
    axis.legend(fontsize=7, loc="upper left")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    part = "" if rows.all() else f" ({len(claimed):,} of {len(rows):,} samples)"
    label = shorten_label(meaning, 40)
    set_titles(axis, f"Calibration: ECE {error:.3f}{part}", label, "observed share")
    below.bar(edges[:-1], counts, 1 / bins, align="edge", color=GREY, edgecolor="white")
    below.set(xlim=(0, 1))
    set_titles(below, "Distribution of the probability", label, "samples")
    return figure
