"""Plots of predicted classes: confusions, scores of each class, ROC and PR curves, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn import metrics
from torchmetrics.functional.classification import binary_calibration_error

from src.kindling.analysis import drawing
from src.kindling.analysis.drawing import BLUE, GREY
from src.kindling.analysis.predictions import Array

CLASSES, CURVES = 20, 10  # of one plot; its title says where these are not all
RANKED = 100_000  # rows of a ROC curve, drawn at random


def plot_confusion(counts: Array, names: Sequence[str], unit: str = "samples") -> Figure:
    """Plot counts `(K, K)`, a row for each true class; shades are shares of the true class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few, listed = len(names) <= CLASSES, len(names) > 12
    side = min(2.0 + 0.5 * max(4, len(names)), 10.0)
    figure, (axis,) = drawing.create_panels(1, side + (3.4 if listed else 0.0), side)
    labels = [drawing.shorten_label(name, 18) for name in names]
    style = {"norm": PowerNorm(0.5, 0, 1)}  # makes rare mistakes visible: 4 % as dark as a fifth
    display = metrics.ConfusionMatrixDisplay(shares, display_labels=labels)
    display.plot(
        include_values=few, cmap="Blues", ax=axis, colorbar=False, im_kw=style, xticks_rotation=90
    )
    for (t, p), share in np.ndenumerate(shares if few else []):
        text = f"{counts[t, p]:,}" if listed else f"{counts[t, p]:,}\n{share:.0%}"
        color = "white" if share > 0.3 else "black"
        display.text_[t, p].set(text=text if share else "", fontsize=7.5, color=color)
    if not few:
        step = -(-len(names) // 100)
        axis.set_xticks(range(0, len(names), step), labels[::step], fontsize=6)
        axis.set_yticks(range(0, len(names), step), labels[::step], fontsize=6)
    if listed:
        text = _list_confusions(counts, shares, labels, unit)
        axis.text(1.02, 1, text, va="top", family="monospace", fontsize=7, transform=axis.transAxes)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    drawing.set_titles(
        axis, f"Confusion: {accuracy:.1%} of {counts.sum():,} correct", "predicted", "true"
    )
    return figure


def _list_confusions(counts: Array, shares: Array, labels: Sequence[str], unit: str) -> str:
    wrong = pd.DataFrame(counts - np.diag(np.diag(counts))).stack()
    wrong = wrong[wrong > 0].nlargest(25)
    columns = {
        unit: list(wrong),
        "share": [f"{shares[pair]:.0%}" for pair in wrong.index],
        "true → predicted": [f"{labels[t]} → {labels[p]}" for t, p in wrong.index],
    }
    return drawing.format_table(pd.DataFrame(columns)) if len(wrong) else ""


def plot_class_scores(target: Array, predicted: Array, names: Sequence[str]) -> Figure:
    """Plot precision, recall and F1 of each class, or of the worst ones where there are many."""
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        target, predicted, labels=np.arange(len(names)), zero_division=0
    )
    return plot_scores({"precision": precision, "recall": recall, "F1": f1}, support, names)


def plot_scores(
    scores: Mapping[str, Array], support: Array, names: Sequence[str], unit: str = "samples"
) -> Figure:
    """Plot scores `(K,)` from 0 to 1, by name; of many classes, those whose last score is lowest.

    Args:
        support: number of samples or pixels of each class.
        unit: what `support` counts.
    """
    ranking = list(scores)[-1]
    chosen, title = list(range(len(names))), f"Classes ({unit})"
    if len(names) > CLASSES:
        chosen = np.lexsort((scores[ranking], support == 0))[:CLASSES].tolist()
        title = f"The lowest {ranking} of {len(names)} classes ({unit})"
    labels = [f"{drawing.shorten_label(names[i])} ({support[i]:,})" for i in chosen]
    figure, (axis,) = drawing.create_panels(1, 7.5, 1.2 + 0.45 * len(chosen))
    table = pd.DataFrame(scores).iloc[chosen].set_axis(labels)
    table.plot.barh(ax=axis, xlim=(0, 1.08), width=0.8, legend=False)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.3f", fontsize=7)  # type: ignore[arg-type]
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    drawing.set_titles(axis, title)
    figure.set_label(drawing.format_table(pd.DataFrame({"": names, unit: support, **scores})))
    return figure


def plot_roc_and_pr(target: Array, probability: Array, names: Sequence[str]) -> Figure:
    """Plot ROC and precision-recall curves of each class, or of the second of two classes.

    Args:
        target: class numbers `(N,)`, or labels, 0 or 1, `(N, K)`.
        probability: `(N, K)`.
    """
    finite = np.flatnonzero(np.isfinite(probability).all(axis=1))
    rows = np.random.default_rng(0).permutation(finite)[:RANKED]
    if not len(rows):
        return drawing.draw_message("ROC: no finite probability")
    part = f" ({len(rows):,} of {len(target):,} samples)" if len(rows) < len(target) else ""
    target, probability = target[rows], probability[rows]
    predicted = probability > 0.5 if target.ndim == 2 else probability.argmax(axis=1)
    truth = target == 1 if target.ndim == 2 else target[:, None] == np.arange(len(names))
    support, worst = truth.sum(axis=0), ""
    chosen = np.arange(len(names))[len(names) == 2 and target.ndim == 1 :]
    if len(names) > CURVES:
        f1 = metrics.f1_score(target, predicted, labels=chosen, average=None, zero_division=0)
        chosen = np.lexsort((f1, support == 0))[:CURVES]
        worst = f" ({CURVES} of {len(names)} classes, lowest F1)"
    figure, (roc, pr) = drawing.create_panels(2, 5.2, 4.6, across=2)
    for i in chosen:
        name, true, score = drawing.shorten_label(names[i]), truth[:, i], probability[:, i]
        if support[i] in (0, len(target)):
            for axis in (roc, pr):
                axis.plot([], label=f"none: {name} ({'all' if support[i] else 'no'} samples)")
            continue
        x, y, _ = metrics.roc_curve(true, score)
        roc.plot(x, y, label=f"{metrics.auc(x, y):.3f}  {name}")
        precision, recall, _ = metrics.precision_recall_curve(true, score, drop_intermediate=True)
        average = metrics.average_precision_score(true, score)
        pr.plot(recall, precision, label=f"{average:.3f}  {name}")
    roc.plot([0, 1], [0, 1], ":", color=GREY)
    drawing.set_titles(roc, f"ROC{part}", "false positive rate", "true positive rate")
    drawing.set_titles(pr, f"Precision and recall{worst}", "recall", "precision")
    roc.legend(title="AUC  class", fontsize=7, title_fontsize=8, loc="lower right")
    pr.legend(title="AP  class", fontsize=7, title_fontsize=8, loc="lower left")
    return figure


def plot_calibration(confidence: Array, correct: Array, meaning: str, bins: int = 15) -> Figure:
    """Plot how often events of a predicted probability occur, and how often it is predicted.

    Args:
        confidence, correct: probabilities, and whether the event occurred, `(N,)` each.
        meaning: the event, as the axis label names it.
        bins: of equal width, for the plot and the expected calibration error.
    """
    rows = np.isfinite(confidence)
    if not rows.any():
        return drawing.draw_message("Calibration: no finite probability")
    claimed, hit = confidence[rows].clip(0, 1), correct[rows].astype(np.int64)  # softmax rounds
    error = binary_calibration_error(torch.from_numpy(claimed), torch.from_numpy(hit), bins)
    edges = np.linspace(0, 1, bins + 1)
    groups = pd.DataFrame({"mean": claimed, "hit": hit}).groupby(
        pd.cut(claimed, edges, include_lowest=True, labels=False)
    )
    n, k = groups.size(), groups["hit"].sum()
    figure, (axis, below) = drawing.create_panels(2, 4.6, 4.4, across=2)
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    axis.bar(edges[n.index], k / n, 1 / bins, align="edge", alpha=0.3, edgecolor="white")
    # Wilson's interval shows how little a bin of three samples means.
    tests = [binomtest(some, whole) for some, whole in zip(k, n, strict=True)]
    low, high = np.array([test.proportion_ci(method="wilson") for test in tests]).T
    reach = np.maximum([k / n - low, high - k / n], 0)
    means, label = groups["mean"].mean(), "95 % confidence interval"
    axis.errorbar(means, k / n, reach, fmt="o", markersize=4, color=BLUE, label=label)
    axis.legend(fontsize=7, loc="upper left")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    part = "" if rows.all() else f" ({len(claimed):,} of {len(rows):,} samples)"
    meaning = drawing.shorten_label(meaning, 40)
    drawing.set_titles(axis, f"Calibration: ECE {error:.3f}{part}", meaning, "observed share")
    below.hist(claimed, edges.tolist(), color=GREY, edgecolor="white")
    below.set(xlim=(0, 1))
    drawing.set_titles(below, "Distribution of the probability", meaning, "samples")
    return figure
