"""Plots of masks, for tasks that predict a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from src.kindling.analysis.class_plots import CLASSES, plot_scores
from src.kindling.analysis.drawing import draw_message, shorten_label
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.analysis.sample_plots import draw_images, scale_to_unit
from src.kindling.data.masks import PALETTE, blend


def plot_masks(predictions: Predictions, title: str, before: Predictions | None = None) -> Figure:
    """Plot images, and again under their true and predicted masks, and the untrained net's.

    Args:
        predictions: of the samples, all of which are shown.
        before: the untrained net's, of the same samples.
    """
    if not len(predictions):
        return draw_message(f"{title}: none")
    if predictions.samples is None:
        return draw_message(f"{title}: the data are missing")
    target = predictions["target"]
    columns = {"": np.zeros_like(target), "true": target}
    if before:
        columns["untrained"] = before["prediction"]
    columns["predicted"] = predictions["prediction"]
    rows = range(len(predictions))
    lines = [
        ["", heading]
        if heading
        else [predictions.name(row), f"IoU {predictions['score'][row]:.2f}"]
        for row in rows
        for heading in columns
    ]
    masks = np.stack([masks[row] for row in rows for masks in columns.values()])
    images = predictions.inputs(slice(None)).repeat_interleave(len(columns), dim=0)
    across = 2 * len(columns)
    classes = predictions.spec.classes if predictions.spec else ()
    return draw_masks(images, masks, lines, title, classes, across)


def draw_masks(
    x: torch.Tensor,
    masks: Array,
    lines: Sequence[Sequence[str]],
    title: str,
    names: Sequence[str],
    across: int = 8,
) -> Figure:
    """Draw images `(N, C, H, W)` under their masks `(N, H, W)`, with a legend of the classes."""
    images = torch.from_numpy(scale_to_unit(x))
    images = images.movedim(3, 1) if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)
    if images.shape[2:] != masks.shape[1:]:  # a transform resized the masks
        images = torch.nn.functional.interpolate(images, masks.shape[1:], mode="bilinear")
    pixels = (255 * images.movedim(1, 3)).round().numpy().astype(np.uint8)
    blended = torch.from_numpy(blend(pixels, masks, 0.7)).movedim(3, 1)
    figure = draw_images(blended, lines, title, across=across, foot=0.4)
    present = [i for i in np.unique(masks).tolist() if 0 < i < len(names)]  # no background, no void
    patches = [Patch(color=PALETTE[i] / 255, label=shorten_label(names[i])) for i in present]
    if patches := patches[:CLASSES]:
        columns = min(len(patches), 11)
        figure.legend(handles=patches, loc="lower center", ncols=columns, fontsize=7, frameon=False)
    return figure


def plot_overlap(confusion: Array, names: Sequence[str]) -> Figure:
    """Plot IoU and Dice of each class from pixel counts `(K, K)`, a row for each true class."""
    support, both = confusion.sum(axis=1), np.diag(confusion)
    areas = support + confusion.sum(axis=0)
    scores = {"IoU": both / np.maximum(areas - both, 1), "Dice": 2 * both / np.maximum(areas, 1)}
    return plot_scores(scores, support, names, "pixels")
