"""Look at the data before training: a summary, and plots in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis.drawing import BLUE, create_panels, encode_png, set_titles, shorten_label
from src.kindling.analysis.outputs import outputs_for
from src.kindling.analysis.predictions import spread
from src.kindling.analysis.sample_plots import to_frame
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError, join_names
from src.kindling.data.data_module import DataModule
from src.kindling.data.loader import BatchDataset
from src.kindling.data.preprocess import Standardize
from src.kindling.data.samples import take
from src.kindling.data.statistics import COUNTED_MASKS
from src.kindling.training.build import build_data
from src.kindling.training.warning_filters import quiet

COLUMNS, IMAGES = 24, 16  # of one plot
SAMPLED = 20_000  # rows of a distribution


def look(config: Config, folder: Path) -> tuple[list[str], list[Path]]:
    """Summarize and plot a config's data.

    Args:
        config: after `src.kindling.config.instantiate.check`.
        folder: of the plots; those of an earlier look are replaced.

    Returns:
        The lines of the summary, and the PNG files.

    Raises:
        InputError: when the data is no DataModule of Kindling.
    """
    quiet()
    data = build_data(config)
    if not isinstance(data, DataModule):
        name = "the task's own data" if data is None else type(data).__name__
        raise InputError(
            f"data: {name} has no spec; src.look needs Kindling's DataModule: "
            "derive the class from src.kindling.data.DataModule"
        )
    figures = plot_columns(data) if data.spec.columns else {}
    if data.spec.kind == "image":
        figures = plot_images(data)
    figures["target"] = plot_target(data)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    plots = {folder / f"{name}.png": figure for name, figure in figures.items()}
    for path, figure in plots.items():
        path.write_bytes(encode_png(figure))
    return summarize(data), list(plots)


def summarize(data: DataModule) -> list[str]:
    """Describe samples, classes, shapes, statistics and the data's notes, a line for each."""
    spec, y = data.spec, data.samples.y
    train = y[data.indices["train"]] if isinstance(y, Tensor) else None
    sizes = {stage: len(index) for stage, index in data.indices.items()}
    parts = ", ".join(f"{n:,} {stage}" for stage, n in sizes.items())
    shape = " x ".join(map(str, spec.raw_shape))
    encoded = f", encoded to {spec.in_shape[0]} values" if spec.raw_shape != spec.in_shape else ""
    rows = [
        ("samples", f"{sum(sizes.values()):,}: {parts}"),
        ("input", f"{spec.kind} {shape}{encoded}"),
        *outputs_for(spec).describe(spec, train),
    ]
    if spec.columns:
        kinds = Counter(column.kind for column in spec.columns)
        missing = [f"{name} ({n:,})" for name, n in count_missing(data).items() if n]
        rows.append(("columns", ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
        rows.append(("missing", join_names(missing, 10) or "nothing"))
    else:
        means = ", ".join(f"{mean:.4g}" for mean in spec.mean)
        rows.append(("mean", f"{means} (raw, each channel, training split)"))
        rows.append(("std", ", ".join(f"{std:.4g}" for std in spec.std)))
    if not any(note.startswith("duplicates") for note in data.notes):
        ignored = data.duplicates == "ignore"
        rows.append(("duplicates", "not searched" if ignored else "none in different splits"))
    rows += [("note", note) for note in data.notes]
    return [f"{name:<12}{text}" for name, text in rows]


def plot_images(data: DataModule) -> dict[str, Figure]:
    """Plot training images before and after augmentation, and test images."""
    outputs = outputs_for(data.spec)
    train, test = data.indices["train"], data.indices["test"]
    index = train[spread(len(train), IMAGES)]
    plain, target = BatchDataset(data.samples, None, None)[(0, 0, index)]
    torch.manual_seed(data.seed)
    x, y = data.prepare(*data.datasets["train"][(0, 0, index)], augment=True)
    standardize = data.prepare.preprocess
    assert isinstance(standardize, Standardize)
    highest = 255.0 if float(plain.max()) > 16 else float(plain.max())
    images = [plain.float(), standardize.inverse(x).clamp(0, highest)]
    targets = [one for pair in zip(target, y, strict=True) for one in pair]
    captions = [text for one in target for text in (outputs.format(one), "in training")]
    title = "Training images, and each as the net receives it in the first epoch"
    pairs = torch.stack(images, dim=1).flatten(0, 1)
    figures = {"train": outputs.plot_inputs(pairs, targets, captions, title)}
    if len(test):
        x, y = data.datasets["test"][(0, 0, test[spread(len(test), 2 * IMAGES)])]
        title = "Test images, as the net receives them"
        figures["test"] = outputs.plot_inputs(x, list(y), list(map(outputs.format, y)), title)
    return figures


def plot_target(data: DataModule) -> Figure:
    """Plot the distribution of the target in each split."""
    y, targets = data.samples.y, dict[str, Tensor]()
    for stage, index in data.indices.items():
        if not isinstance(y, Tensor):  # masks in files
            index = index[spread(len(index), COUNTED_MASKS)]
        if len(index):
            targets[stage] = take(y, index)
    return outputs_for(data.spec).plot_targets(targets)


def plot_columns(data: DataModule) -> dict[str, Figure]:
    """Plot each column's distribution, the missing values, and the strongest correlations."""
    table, figures = _sample_rows(data), dict[str, Figure]()
    count = table.shape[1]
    for start in range(0, count, COLUMNS):
        page = table.iloc[:, start : start + COLUMNS]
        part = f" ({start + 1} to {start + page.shape[1]} of {count})" if count > COLUMNS else ""
        name = f"columns_{start // COLUMNS + 1}" if start else "columns"
        figures[name] = _plot_distributions(page, f"Columns in training{part}")
    missing = 100 * count_missing(data) / max(len(data.indices["train"]), 1)
    missing = missing[missing > 0].sort_values(ascending=False, kind="stable")
    if len(missing):
        figures["missing"] = _plot_bars(dict(missing), "Missing values in training", "%")
    if len(pairs := correlate(data)):
        bars = {f"{one[:24]} / {other[:24]}": value for (one, other), value in pairs.items()}
        title = "Most correlated columns in training"
        figures["correlations"] = _plot_bars(bars, title, "Pearson correlation")
        figures["correlations"].axes[0].set_xlim(-1, 1)
    return figures


def count_missing(data: DataModule) -> pd.Series:
    """Count the training rows that lack each column."""
    x, columns = take(data.samples.x, data.indices["train"]), data.spec.columns
    is_category = torch.tensor([column.kind == "category" for column in columns])
    missing = x.isnan() | (is_category & (x < 0))
    return pd.Series(missing.sum(dim=0).numpy(), index=[column.name for column in columns])


def correlate(data: DataModule, most: int = 15) -> pd.Series:
    """Find the strongest Pearson correlations of numeric columns and targets in training."""
    table = _sample_rows(data, with_target=True).select_dtypes("number")
    upper = np.triu(np.ones((table.shape[1],) * 2, dtype=bool), 1)
    pairs = table.corr().where(upper).stack()
    return pairs.sort_values(key=abs, ascending=False, kind="stable")[:most]


def _sample_rows(data: DataModule, with_target: bool = False) -> pd.DataFrame:
    """Raw training rows as columns of numbers and categories; a missing value is NaN."""
    index = data.indices["train"]
    rows = index[spread(len(index), SAMPLED)]
    table, y = to_frame(data.spec.columns, take(data.samples.x, rows)), take(data.samples.y, rows)
    if with_target and y.is_floating_point():
        table[list(data.spec.names)] = y.double().numpy()
    return table


def _plot_distributions(table: pd.DataFrame, title: str) -> Figure:
    figure, axes = create_panels(table.shape[1], 3.2, 2.3, across=4, head=0.3)
    for axis, name in zip(axes, table, strict=True):
        values = table[name].dropna()
        if values.dtype == "category":
            counts = values.value_counts()[:10][::-1]
            labels = [shorten_label(str(level), 14) for level in counts.index]
            axis.barh(range(len(counts)), counts, color=BLUE)
            axis.set_yticks(range(len(counts)), labels, fontsize=7)
        else:
            axis.hist(values, bins=2 if values.isin((0, 1)).all() else 30, color=BLUE)
        set_titles(axis, shorten_label(name, 32))
    figure.suptitle(title, fontsize=10)
    return figure


def _plot_bars(bars: Mapping[str, float], title: str, unit: str) -> Figure:
    figure, (axis,) = create_panels(1, 8.5, 1.0 + 0.25 * len(bars))
    colors = [BLUE if value > 0 else "tab:red" for value in bars.values()]
    axis.barh(range(len(bars)), list(bars.values()), color=colors)
    axis.set_yticks(range(len(bars)), [shorten_label(name, 52) for name in bars])
    axis.invert_yaxis()
    set_titles(axis, title, unit)
    return figure
