"""Pictures of classes: what is taken for what, how well each is found, and whether its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from src.kindling.analysis.figures import BLUE, GREY, ORANGE, as_text, label, message, panels, titled
from src.kindling.analysis.predictions import Array

# How much one picture shows; where that is not all, it says so.
CLASSES, CURVES = 20, 10
RANKED = 100_000  # rows, drawn at random, of a ROC curve


def confusion(target: Array, predicted: Array, names: Sequence[str]) -> Figure:
    """How often each class was taken for which; the shade is the share of the true class, its row."""
    from sklearn.metrics import confusion_matrix

    return confused(confusion_matrix(target, predicted, labels=np.arange(len(names))), names)


def confused(counts: Array, names: Sequence[str], what: str = "samples") -> Figure:
    """The same of counts `(classes, classes)` of samples or pixels, a row for each true class."""
    count = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    step = -(-count // 100)
    shown = [label(name, 18) for name in names[::step]]
    side, listed, longest = min(max(0.5 * count, 2.4), 9.0), count > 12, max(map(len, shown))
    size = min(9.0, 60 * side / len(shown))
    margin = 0.6 + 0.009 * size * longest
    figure, (axis,) = panels(1, side, side, left=margin, bottom=margin, right=4.2 if listed else 0.8)
    # With the root, 4 % are as dark as a fifth, so that rare mistakes are seen.
    axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    right = np.trace(counts) / max(counts.sum(), 1)
    titled(axis, f"Confusion: {right:.1%} of {counts.sum():,} right", "predicted", "true", "left")
    turned = longest * 0.0085 * size > side / len(shown)
    axis.set_xticks(range(0, count, step), shown, rotation=90 if turned else 0, fontsize=size)
    axis.set_yticks(range(0, count, step), shown, fontsize=size)
    for t, p in np.argwhere(counts) if count <= CLASSES else ():
        text = f"{counts[t, p]:,}" if listed else f"{counts[t, p]:,}\n{shares[t, p]:.0%}"
        axis.text(p, t, text, ha="center", va="center", fontsize=7.5, color="white" if shares[t, p] > 0.3 else "black")
    if listed:
        wrong = counts - np.diag(np.diag(counts))
        most = [divmod(int(place), count) for place in np.argsort(-wrong, axis=None, kind="stable")[:25]]
        lines = [f"{wrong[t, p]:7,} {shares[t, p]:5.0%}  {label(names[t], 14)} → {label(names[p], 14)}"
                 for t, p in most if wrong[t, p]]  # fmt: skip
        text = "\n".join([f"{what:>7} share  true → predicted", *lines])
        axis.text(1.02, 1, text, transform=axis.transAxes, va="top", family="monospace", fontsize=7.5)
    return figure


def classes(target: Array, predicted: Array, names: Sequence[str]) -> Figure:
    """Precision, recall, F1 and the number of samples of each class; the worst ones where there are many."""
    from sklearn.metrics import precision_recall_fscore_support

    every = np.arange(len(names))
    *scores, support = precision_recall_fscore_support(target, predicted, labels=every, zero_division=0)
    return marks(dict(zip(("precision", "recall", "F1"), scores, strict=True)), support, names, "samples")


def marks(scores: Mapping[str, Array], support: Array, names: Sequence[str], of: str) -> Figure:
    """A line for each class with its scores `(classes,)`, by name, from 0 to 1; the worst by the last where many are.

    Args:
        scores: up to three; the last one is drawn as a bar.
        support: how many samples or pixels each class has.
        names: of the classes.
        of: what was counted.
    """
    *_, (last, lengths) = scores.items()
    every = np.arange(len(names))
    chosen = np.lexsort((lengths, support == 0))[:CLASSES] if len(names) > CLASSES else every
    shown = [f"{label(names[i])} ({support[i]:,})" for i in chosen]
    figure, (axis,) = panels(1, 3.6, 0.3 + 0.27 * len(chosen), left=0.4 + 0.075 * max(map(len, shown)), top=0.6,
                             right=0.3 + 0.6 * len(scores))  # fmt: skip
    styles = (("<", BLUE), (">", ORANGE), ("|", "black"))[-len(scores) :]
    for place, ((name, values), (marker, color)) in enumerate(zip(scores.items(), styles, strict=True)):
        axis.scatter(values[chosen], range(len(chosen)), marker=marker, color=color, label=name, s=45, zorder=2)
        at: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "right", "fontsize": 8, "color": color}
        for row, text in enumerate([name, *(f"{value:.3f}" for value in values[chosen])], start=-1):
            axis.text(1.18 + 0.165 * place, row, text, va="center", **at)
    axis.hlines(range(len(chosen)), 0, lengths[chosen], color="0.88", linewidth=5, zorder=1)
    axis.set_yticks(range(len(chosen)), shown)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(chosen) - 0.4, -0.6))
    axis.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.98), ncols=3, frameon=False, fontsize=8)
    which = f"The lowest {last} of {len(names)} classes" if len(chosen) < len(names) else "Classes"
    figure.suptitle(f"{which} ({of})", fontsize=10)
    columns = {"": names, of: [f"{n:,}" for n in support],
               **{name: [f"{value:.3f}" for value in values] for name, values in scores.items()}}  # fmt: skip
    figure.set_label(as_text(columns))
    return figure


def roc_and_pr(target: Array, probability: Array, names: Sequence[str]) -> Figure:
    """ROC and precision-recall curves: of the second of two classes, or of each class against the rest.

    Args:
        target: class numbers `(N,)`, or labels, 0 or 1, `(N, classes)`.
        probability: `(N, classes)`.
        names: of the classes or labels.
    """
    from sklearn.metrics import auc, average_precision_score, f1_score, precision_recall_curve, roc_curve

    count, rows = len(names), np.flatnonzero(np.isfinite(probability).all(axis=1))
    rows = np.random.default_rng(0).permutation(rows)[:RANKED]
    if not len(rows):
        return message("ROC: no finite probability")
    of = f" ({len(rows):,} of {len(target):,} samples)" if len(rows) < len(target) else ""
    target, probability = target[rows], probability[rows]
    several = target.ndim == 2
    truth = target == 1 if several else target[:, None] == np.arange(count)
    there, chosen = truth.sum(axis=0), [1] if count == 2 and not several else list(range(count))
    if count > CURVES:
        predicted = probability > 0.5 if several else probability.argmax(axis=1)
        f1 = f1_score(target, predicted, labels=chosen, average=None, zero_division=0)
        chosen = np.lexsort((f1, there == 0))[:CURVES].tolist()
    figure, (roc, pr) = panels(2, 4.4, 3.8, across=2)
    for i in chosen:
        name, true, score = label(names[i]), truth[:, i], probability[:, i]
        if there[i] in (0, len(target)):
            for axis in (roc, pr):
                axis.plot([], label=f"none: {name} ({'all' if there[i] else 'no'} samples)")
            continue
        x, y, _ = roc_curve(true, score)
        roc.plot(x, y, label=f"{auc(x, y):.3f}  {name}")
        precision, recall, _ = precision_recall_curve(true, score, drop_intermediate=True)
        pr.plot(recall, precision, label=f"{average_precision_score(true, score):.3f}  {name}")
    roc.plot([0, 1], [0, 1], ":", color=GREY)
    which = f" ({CURVES} of {count} classes, lowest F1)" if count > CURVES else ""
    titled(roc, f"ROC{of}", "false positive rate", "true positive rate")
    titled(pr, f"Precision and recall{which}", "recall", "precision")
    for axis, name in ((roc, "AUC"), (pr, "AP")):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axis.legend(title=f"{name}  class", fontsize=7, title_fontsize=8, alignment="left",
                    loc="lower right" if axis is roc else "lower left")  # fmt: skip
    return figure


def calibration(confidence: Array, correct: Array, meaning: str, bins: int = 15) -> Figure:
    """How often what is said to be so likely is the case, and how often so much is said.

    Args:
        confidence, correct: probabilities, and whether it was the case, `(N,)` each.
        meaning: what the probability is of.
        bins: of equal width, for the picture and for the expected calibration error.
    """
    from torchmetrics.functional.classification import binary_calibration_error

    rows = np.isfinite(confidence)
    if not rows.any():
        return message("Calibration: no finite probability")
    said, right = confidence[rows].clip(0, 1), correct[rows].astype(np.int64)  # a softmax may round to more than 1
    ece = binary_calibration_error(torch.from_numpy(said), torch.from_numpy(right), bins)
    edges = np.linspace(0, 1, bins + 1)
    counts, hits, sums = (np.histogram(said, edges, weights=weights)[0] for weights in (None, right, said))
    there = counts > 0
    figure, (axis, below) = panels(2, 3.8, 3.8, across=2)
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    axis.bar(edges[:-1][there], hits[there] / counts[there], 1 / bins, align="edge", alpha=0.3, edgecolor="white")
    # Wilson's interval: a bin of three samples says little, and is not to look as if it did.
    n, share = counts[there], hits[there] / counts[there]
    middle = (share + 1.92 / n) / (1 + 3.84 / n)
    half = np.sqrt(share * (1 - share) / n + 0.96 / n**2) * 1.96 / (1 + 3.84 / n)
    reach = np.maximum([share - (middle - half), middle + half - share], 0)
    axis.errorbar(
        sums[there] / n, share, reach, fmt="o", markersize=4, color=BLUE, elinewidth=1.2, label="95 % interval"
    )
    axis.legend(fontsize=7, loc="upper left")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    of = "" if rows.all() else f" ({len(said):,} of {len(rows):,} samples)"
    titled(axis, f"Calibration: ECE {ece:.3f}{of}", label(meaning, 40), "share that is so")
    below.bar(edges[:-1], counts, 1 / bins, align="edge", color=GREY, edgecolor="white")
    below.set(xlim=(0, 1))
    titled(below, "How much is claimed", label(meaning, 40), "samples")
    return figure
