"""Pictures of masks, for the tasks that predict a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from src.kindling.analysis.figures import grid, label, message, visible
from src.kindling.analysis.figures_of_classes import CLASSES, marks
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.data.masks import PALETTE, blend


def samples(predictions: Predictions, title: str, before: Predictions | None = None) -> Figure:
    """Images, and again under their true, their predicted and, if there are some, their earlier masks.

    Args:
        predictions: of the samples, all of which are shown.
        title: of the figure.
        before: what the untrained net said of the same samples.
    """
    if not len(predictions):
        return message(f"{title}: none")
    if predictions.samples is None:
        return message(f"{title}: the data are not at hand")
    shown = {"true": predictions["target"]}
    shown |= {"untrained": before["prediction"]} if before else {}
    shown["predicted"] = predictions["prediction"]
    iou = predictions["score"]
    lines, tiles, masks = list[list[str]](), list[int](), list[Array]()
    for row in range(len(predictions)):
        lines.append([predictions.name(row), f"IoU {iou[row]:.2f}"])
        masks.append(np.zeros_like(predictions["target"][row]))
        lines += [["", key] for key in shown]
        masks += [of[row] for of in shown.values()]
        tiles += [row] * (1 + len(shown))
    return under(predictions.inputs(slice(None))[tiles], np.stack(masks), lines, title, predictions.spec.classes,
                 across=2 * (1 + len(shown)))  # fmt: skip


def under(
    x: torch.Tensor, masks: Array, lines: Sequence[Sequence[str]], title: str, names: Sequence[str], across: int = 8
) -> Figure:
    """Images `(N, C, H, W)` under their masks `(N, H, W)`, each over its lines, and the colours of the classes."""
    images = visible(x)
    images = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    if images.shape[1:3] != masks.shape[1:]:  # a transform has changed the size of both
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(images).movedim(3, 1), masks.shape[1:], mode="bilinear"
        )
        images = resized.movedim(1, 3).numpy()
    blended = blend((255 * images).round().astype(np.uint8), masks, 0.7)
    figure = grid(torch.from_numpy(blended).movedim(3, 1), lines, title, across=across, foot=0.4)
    legend(figure, names, [i for i in np.unique(masks).tolist() if 0 < i < len(names)])
    return figure


def legend(figure: Figure, names: Sequence[str], chosen: Sequence[int]) -> None:
    """The colours of some classes, below the pictures; the first class is left clear, and not among them."""
    patches = [Patch(color=PALETTE[i] / 255, label=label(names[i])) for i in chosen[:CLASSES]]
    if patches:
        figure.legend(handles=patches, loc="lower center", ncols=min(len(patches), 11), fontsize=7, frameon=False)


def overlap(confusion: Array, names: Sequence[str]) -> Figure:
    """IoU and Dice of each class, from how many pixels of each true class (rows) were taken for which `(K, K)`."""
    both, areas = np.diag(confusion), confusion.sum(axis=1) + confusion.sum(axis=0)
    scores = {"IoU": both / np.maximum(areas - both, 1), "Dice": 2 * both / np.maximum(areas, 1)}
    return marks(scores, confusion.sum(axis=1), names, "pixels")
