"""Pictures of predictions and of a net; the tasks' `figures` are made of them.

Each is a matplotlib Figure of its own, made of plain arrays, without pyplot and its global state.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from src.predictions import Array, Predictions, eager, spread

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from src.data.spec import Spec

# How much one picture shows; where that is not all, it says so.
SAMPLES, CLASSES, CURVES, OUTPUTS, LAYERS = 16, 20, 10, 6, 12
DOTS, RANKED = 3_000, 100_000  # rows, drawn at random, of a scatter plot and of a ROC curve
BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.6"


def pixels(figure: Figure) -> Array:
    """The figure drawn, `(height, width, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a script without a font is drawn as boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


def label(name: str, most: int = 20) -> str:
    """A name as matplotlib should show it: on one line, shortened in its middle, and never read as a formula."""
    name = " ".join(name.split())
    return (name if len(name) <= most else f"{name[: most // 2]}…{name[most // 2 - most + 1 :]}").replace("$", r"\$")


def message(text: str) -> Figure:
    """A picture that says why there is none."""
    figure, (axis,) = panels(1, 5, 0.2)
    axis.axis("off")
    texts(axis, label(text, 80))
    return figure


def panels(
    count: int, width: float, height: float, across: int = 1, left: float = 0.7, bottom: float = 0.55,
    right: float = 0.25, top: float = 0.35, head: float = 0.0,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with so many axes of that size in inches, each with these margins, and a head for its title.

    A layout that fits itself to its texts would lay them all out twice, and that is what takes time.
    """
    across = min(across, count)
    down, w, h = -(-count // across), left + width + right, bottom + height + top
    whole = w * across, h * down + head
    figure = Figure(figsize=whole, dpi=100)
    for place in range(count):
        x, y = place % across * w + left, (down - 1 - place // across) * h + bottom
        axis = figure.add_axes((x / whole[0], y / whole[1], width / whole[0], height / whole[1]))
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=5)
    return figure, figure.axes


def texts(axis: Axes, title: str, x: str = "", y: str = "", loc: Literal["left", "center"] = "center") -> None:
    # At a fixed height: matplotlib would measure all ticks to find one where the title is clear of them.
    axis.set_title(title, loc=loc, y=1.0, fontsize=10)
    axis.set(xlabel=x, ylabel=y)


# ---------------------------------------------------------------------------------------------------------------
# Classes


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
    texts(axis, f"Confusion: {right:.1%} of {counts.sum():,} right", "predicted", "true", "left")
    axis.set_xticks(range(0, count, step), shown, rotation=90 if longest > 3 else 0, fontsize=size)
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
    figure, (axis,) = panels(1, 4.5, 0.3 + 0.27 * len(chosen), left=0.4 + 0.075 * max(map(len, shown)), top=0.6)
    styles = (("<", BLUE), (">", ORANGE), ("|", "black"))[-len(scores) :]
    for (name, values), (marker, color) in zip(scores.items(), styles, strict=True):
        axis.scatter(values[chosen], range(len(chosen)), marker=marker, color=color, label=name, s=45, zorder=2)
    axis.hlines(range(len(chosen)), 0, lengths[chosen], color="0.88", linewidth=5, zorder=1)
    axis.set_yticks(range(len(chosen)), shown)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(chosen) - 0.4, -0.6))
    axis.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.98), ncols=3, frameon=False, fontsize=8)
    which = f"The lowest {last} of {len(names)} classes" if len(chosen) < len(names) else "Classes"
    figure.suptitle(f"{which} ({of})", fontsize=10)
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
        predicted = probability >= 0.5 if several else probability.argmax(axis=1)
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
        roc.plot(x, y, label=f"{auc(x, y):.3f} {name}")
        precision, recall, _ = precision_recall_curve(true, score, drop_intermediate=True)
        pr.plot(recall, precision, label=f"{average_precision_score(true, score):.3f} {name}")
    roc.plot([0, 1], [0, 1], ":", color=GREY)
    which = f" ({CURVES} of {count} classes, lowest F1)" if count > CURVES else ""
    texts(roc, f"ROC{of}", "false positive rate", "true positive rate")
    texts(pr, f"Precision and recall{which}", "recall", "precision")
    for axis, name in ((roc, "AUC"), (pr, "AP")):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axis.legend(title=name, fontsize=7, title_fontsize=8, loc="lower right" if axis is roc else "lower left")
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
    axis.plot(sums[there] / counts[there], hits[there] / counts[there], "o-", markersize=4)
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    of = "" if rows.all() else f" ({len(said):,} of {len(rows):,} samples)"
    texts(axis, f"Calibration: ECE {ece:.3f}{of}", label(meaning, 40), "share that is so")
    below.bar(edges[:-1], counts, 1 / bins, align="edge", color=GREY, edgecolor="white")
    texts(below, "How much is claimed", label(meaning, 40), "samples")
    return figure


# ---------------------------------------------------------------------------------------------------------------
# Samples


def samples(
    predictions: Predictions, title: str, captions: Mapping[str, Sequence[str]], good: Sequence[bool] = ()
) -> Figure:
    """Samples as pictures over their captions, or, where they are rows of a table, as its rows.

    Args:
        predictions: of the samples, all of which are shown.
        title: of the figure.
        captions: by what they say ("true"), a text for each sample.
        good: whether a sample's last caption is green or red; black where left out.
    """
    if not len(predictions):
        return message(f"{title}: none")
    names = [predictions.name(row) for row in range(len(predictions))]
    if predictions.spec.kind != "image" or predictions.samples is None:
        return _rows(predictions, title, {"": names, **captions})
    lines = [[name, *(f"{key} {said[i]}" for key, said in captions.items())] for i, name in enumerate(names)]
    return grid(predictions.inputs(slice(None)), lines, title, ["tab:green" if right else "tab:red" for right in good])


def grid(
    x: torch.Tensor, lines: Sequence[Sequence[str]], title: str, colors: Sequence[str] = (), across: int = 8,
    foot: float = 0.0,
) -> Figure:  # fmt: skip
    """Images `(N, C, H, W)` of any kind, in rows, each over its lines: the first grey, the last in its color.

    Below them a foot of so many inches is left free.
    """
    images = visible(x)
    high, text = 0.92 * images.shape[1] / images.shape[2], 0.12 * len(lines[0]) + 0.13  # in places across
    in_row, across, down = across, max(3, min(across, len(images))), -(-len(images) // across)
    figure, (axis,) = panels(1, 1.5 * across, 1.5 * (high + text) * down, left=0, right=0, bottom=foot)
    axis.axis("off")
    texts(axis, label(title, 100))
    smooth = "nearest" if max(images.shape[1:3]) < 64 else "antialiased"
    for i, image in enumerate(images):
        left, top = i % in_row, i // in_row * (high + text)
        extent = (left + 0.04, left + 0.96, top + high, top)
        axis.imshow(image, "gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation=smooth)
        for place, line in enumerate(lines[i]):
            color = GREY if not place else colors[i] if len(colors) and line is lines[i][-1] else "black"
            y = top + high + 0.03 + 0.12 * place
            axis.text(left + 0.5, y, label(line, 24), ha="center", va="top", fontsize=7, color=color)
    axis.set(xlim=(0, across), ylim=(down * (high + text), 0))
    return figure


def visible(x: torch.Tensor) -> Array:
    """Images `(N, C, H, W)` of any kind from 0 to 1, `(N, H, W)` or `(N, H, W, 3)`; a fourth channel is left out."""
    images: Array = np.nan_to_num(x[:, : 3 if x.shape[1] > 2 else 1].float().numpy(), posinf=0, neginf=0)
    low, high = min(0.0, float(images.min())), float(images.max())
    high = 255.0 if x.dtype == torch.uint8 and high > 16 else high
    images = np.moveaxis((images - low) / max(high - low, 1e-12), 1, 3)
    return images if images.shape[3] == 3 else images[..., 0]


def _rows(predictions: Predictions, title: str, captions: Mapping[str, Sequence[str]]) -> Figure:
    """Captions, and a table's first columns, as lines of one text: that is laid out much faster than cells."""
    cells = [[key, *said] for key, said in captions.items()]
    columns = predictions.spec.columns[:8] if predictions.samples else ()
    for column, numbers in zip(columns, predictions.inputs(slice(None)).T.tolist() if columns else (), strict=False):
        names = dict(enumerate(column.levels))
        cells.append([column.name, *(names.get(v, "?") if names else f"{v:.4g}" for v in numbers)])
    cells = [[label(cell, 24) for cell in column] for column in cells]
    widths = [max(map(len, column)) for column in cells]
    lines = ["  ".join(map(str.ljust, line, widths)) for line in zip(*cells, strict=True)]
    figure, (axis,) = panels(1, 0.07 * max(map(len, lines)), 0.145 * len(lines), left=0.2, bottom=0.1)
    axis.axis("off")
    texts(axis, label(title, 100), loc="left")
    axis.text(0, 1, "\n".join(lines), transform=axis.transAxes, va="top", family="monospace", fontsize=8)
    return figure


# ---------------------------------------------------------------------------------------------------------------
# Values


def values(truth: Array, predicted: Array, names: Sequence[str], before: Array | None = None) -> Figure:
    """Predicted against true values, errors against predictions, and their distribution; a row for each output.

    Args:
        truth, predicted, before: `(N, outputs)`; the last is what the untrained net said, for the first picture.
        names: of the outputs, of which six are drawn.
    """
    from sklearn.metrics import mean_absolute_error, r2_score

    figure, axes = panels(3 * len(names[:OUTPUTS]), 3.4, 3.2, across=3)
    for output, name in enumerate(names[:OUTPUTS]):
        against, error, histogram = axes[3 * output : 3 * output + 3]
        given = [array[:, output].astype(float) for array in (truth, predicted, before) if array is not None]
        rows = np.isfinite(given).all(axis=0)
        if not rows.any():
            texts(against, f"{label(name)}: nothing finite")
            continue
        true, said, *past = (array[rows] for array in given)
        off = said - true
        dots = np.random.default_rng(0).permutation(len(true))[:DOTS]
        low, high = (float(find([find(array) for array in (true, said, *past)])) for find in (np.min, np.max))
        space = 0.05 * (high - low) or max(abs(high), 1.0)
        ends = (low - space, high + space)
        against.plot(ends, ends, ":", color=GREY)
        for array in past:
            against.vlines(true[dots], array[dots], said[dots], color="0.85", linewidth=0.8)
            against.scatter(true[dots], array[dots], s=14, facecolors="white", edgecolors=GREY, label="untrained")
        against.scatter(true[dots], said[dots], s=14, alpha=0.6, linewidths=0, color=BLUE, label="trained", zorder=2)
        against.set(xlim=ends, ylim=ends)
        if past:
            against.legend(fontsize=7)
        score = f"MAE {mean_absolute_error(true, said):.4g}"
        score += f", R² {r2_score(true, said):.3f}" if len(true) > 1 else ""
        score += "" if rows.all() else f", {np.count_nonzero(~rows):,} not finite"
        texts(against, score, f"true {label(name, 40)}", "predicted")
        error.axhline(0, color=GREY, linestyle=":")
        error.scatter(said[dots], off[dots], s=14, alpha=0.6, linewidths=0, color=BLUE)
        tenths = np.array_split(np.argsort(said, kind="stable"), min(10, len(said)))
        error.plot([said[part].mean() for part in tenths], [off[part].mean() for part in tenths], color=ORANGE)
        texts(error, "Errors, and the mean of each tenth", "predicted", "predicted - true")
        histogram.hist(off.clip(*np.percentile(off, (0.5, 99.5))), bins=min(40, 5 + len(off) // 10), color=BLUE)
        histogram.axvline(0, color=GREY, linestyle=":")
        texts(histogram, f"Errors: mean {off.mean():.4g}, std {off.std():.4g}", "predicted - true", "samples")
    return figure


# ---------------------------------------------------------------------------------------------------------------
# Nets


def layers(task: LightningModule, spec: Spec) -> list[tuple[str, str, str, int, int]]:
    """Name, kind, output shape, parameters and FLOPs of each layer, for one sample; a multiply-add is two FLOPs."""
    from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary

    own = task.example_input_array
    task.example_input_array = torch.zeros(1, *spec.raw_shape, device=task.device).to(task.dtype)
    with eager(task):
        summary = ModelSummary(task, max_depth=-1)
    task.example_input_array = own
    inner = {name.rpartition(".")[0] for name in summary.layer_names}
    columns = zip(summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True)
    return [
        (name, kind, " x ".join(map(str, size[1:])) or "?", parameters, sum(summary.flop_counts[name].values()))
        for name, kind, size, parameters in columns
        if name not in inner and (parameters or size != "?")
    ]


def sampled_weights(task: LightningModule, most: int = 20_000) -> dict[str, Array]:
    """At most so many values of each weight, evenly spaced over it; those of biases and norms are left out."""
    return {
        name: parameter.detach().flatten()[:: -(-parameter.numel() // most)].float().cpu().numpy().copy()
        for name, parameter in task.named_parameters()
        if parameter.ndim > 1 and parameter.numel()
    }


def weights(after: Mapping[str, Array], before: Mapping[str, Array]) -> Figure:
    """How the weights of each layer are spread, and how they were before training; both from `sampled_weights`."""
    names = [list(after)[i] for i in spread(len(after), LAYERS)]
    if not names:
        return message("Weights: the net has none")
    figure, axes = panels(len(names), 2.6, 1.6, across=4, left=0.2, bottom=0.35, head=0.3)
    for axis, name in zip(axes, names, strict=True):
        now, past = (values[np.isfinite(values)] for values in (after[name], before.get(name, np.empty(0))))
        bins = np.histogram_bin_edges(np.concatenate([now, past]), 40).tolist()
        axis.hist(past, bins, color="0.8", label="untrained")
        axis.hist(now, bins, histtype="step", color=BLUE, label="trained")
        texts(axis, label(name.removeprefix("net."), 32))
        axis.set_yticks([])
    axes[0].legend(fontsize=7)
    of = f" ({len(names)} of {len(after)} layers)" if len(names) < len(after) else ""
    figure.suptitle(f"Weights{of}", fontsize=10)
    return figure
