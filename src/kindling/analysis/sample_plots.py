"""Galleries of samples: images and masks over their captions, or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis import drawing
from src.kindling.analysis.drawing import GREY, PHOTOS
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.data.spec import Column


def plot_samples(
    predictions: Predictions,
    title: str,
    captions: Mapping[str, Sequence[str]],
    correct: Sequence[bool] = (),
) -> Figure:
    """Plot all samples of some predictions: images over their captions, or rows of a table.

    Args:
        captions: by their heading ("true"), a text for each sample.
        correct: whether a sample's captions are green or red; black where left out.
    """
    if not len(predictions):
        return drawing.draw_message(f"{title}: none")
    names = [predictions.name(row) for row in range(len(predictions))]
    spec = predictions.spec
    table = pd.DataFrame({"": names, **captions})
    if spec is None or spec.kind != "image" or predictions.samples is None:
        if len(correct):
            table["wrong"] = ["" if right else "✗" for right in correct]
        if spec is not None and spec.columns and predictions.samples is not None:
            features = to_frame(spec.columns, predictions.inputs(slice(None))).iloc[:, :8]
            table = pd.concat([table, features], axis=1)
        return drawing.draw_table(table, title)
    lines = [[f"{heading} {text}" for text in texts] for heading, texts in captions.items()]
    colors = ["tab:green" if right else "tab:red" for right in correct]
    x, rows = predictions.inputs(slice(None)), list(zip(*lines, strict=True))
    figure = draw_images(x, rows, title, names=names, colors=colors)
    figure.set_label(drawing.format_table(table))
    return figure


def to_frame(columns: Sequence[Column], x: Tensor) -> pd.DataFrame:
    """Convert raw rows `(N, columns)` to numbers and categories; a missing value is NaN."""
    frame = pd.DataFrame(x.double().numpy(), columns=[column.name for column in columns])
    for column in columns:
        if column.kind == "category":
            codes = frame[column.name].astype(int)
            frame[column.name] = pd.Categorical.from_codes(codes, list(column.categories))
    return frame


def draw_images(
    x: Tensor,
    captions: Sequence[Sequence[str]],
    title: str,
    *,
    names: Sequence[str] = (),
    colors: Sequence[str] = (),
    across: int = 8,
) -> Figure:
    """Draw images `(N, C, H, W)` in rows.

    Args:
        captions: lines below each image.
        names: above each image; the folders of a path take a line of their own.
        colors: of each image's captions.
        across: images in a row.
    """
    images = scale_to_unit(x)
    across = min(across, len(images))
    down = -(-len(images) // across)
    # Sizes in inches, which are also the units of the axes: an image below its name, in a cell.
    width, above, head = 1.5, 0.3 if names else 0.05, 0.3
    bottom = above + 1.4 * images.shape[1] / images.shape[2]
    height = bottom + 0.13 * len(captions[0]) + 0.1
    figure = Figure((max(width * across, 4.0), height * down + head), layout="constrained")
    axis = figure.subplots()  # one for all images: each axes takes 10 ms to draw
    style: Any = {"fontsize": 7, "ha": "center"}
    smooth = "nearest" if max(images.shape[1:3]) < 64 else "antialiased"
    for i, image in enumerate(images):
        x0, y0 = width * (i % across), height * (i // across)
        extent = (x0 + 0.05, x0 + width - 0.05, y0 + bottom, y0 + above)
        axis.imshow(image, "gray", vmin=0, vmax=1, interpolation=smooth, extent=extent)
        center = x0 + width / 2
        text = "\n".join(drawing.shorten_label(line, 24) for line in captions[i])
        color = colors[i] if colors else "black"
        axis.text(center, y0 + bottom + 0.05, text, **style, color=color, va="top")
        if names:
            folder, slash, name = names[i].rpartition("/")
            parts = [drawing.shorten_label(part, 24) for part in (folder + slash, name) if part]
            axis.text(center, y0 + above - 0.03, "\n".join(parts), **style, color=GREY)
    axis.set(xlim=(0, width * across), ylim=(height * down, 0))
    axis.set_axis_off()
    figure.suptitle(drawing.shorten_label(title, 100), fontsize=10)
    figure.set_gid(PHOTOS)
    return figure


def scale_to_unit(x: Tensor) -> Array:
    """Scale images `(N, C, H, W)` to [0, 1], as `(N, H, W)` or `(N, H, W, 3)`; alpha is dropped."""
    channels = 3 if x.shape[1] > 2 else 1
    images: Array = np.nan_to_num(x[:, :channels].float().numpy(), posinf=0, neginf=0)
    low, high = min(0.0, float(images.min())), float(images.max())
    if not x.is_floating_point() and high > 16:
        high = 255.0
    images = np.moveaxis((images - low) / max(high - low, 1e-12), 1, 3)
    return images if channels == 3 else images[..., 0]
