"""Galleries of samples: images over their captions, or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from src.kindling.analysis.drawing import (
    GREY,
    PHOTOS,
    create_panels,
    draw_message,
    draw_table,
    format_table,
    set_titles,
    shorten_label,
)

if TYPE_CHECKING:
    from torch import Tensor

    from src.kindling.analysis.predictions import Array, Predictions


def plot_samples(
    predictions: Predictions,
    title: str,
    captions: Mapping[str, Sequence[str]],
    correct: Sequence[bool] = (),
) -> Figure:
    """Plot all samples of some predictions: images over their captions, or rows of a table.

    Args:
        captions: by their heading ("true"), a text for each sample.
        correct: whether a sample's last caption is green or red; black where left out.
    """
    if not len(predictions):
        return draw_message(f"{title}: none")
    names = [predictions.name(row) for row in range(len(predictions))]
    spec = predictions.spec
    if spec is None or spec.kind != "image" or predictions.samples is None:
        if len(correct):
            captions = {**captions, "wrong": ["" if right else "✗" for right in correct]}
        return draw_table({"": names, **captions, **_format_features(predictions)}, title)
    paths = [name.rpartition("/") for name in names]  # a folder and a name take two lines
    lines = [[folder + slash, name] for folder, slash, name in paths]
    if not any(slash for _, slash, _ in paths):
        lines = [[name] for name in names]
    grey = len(lines[0])
    for heading, texts in captions.items():
        lines = [[*line, f"{heading} {text}"] for line, text in zip(lines, texts, strict=True)]
    colors = ["tab:green" if right else "tab:red" for right in correct]
    figure = draw_images(predictions.inputs(slice(None)), lines, title, colors, grey=grey)
    figure.set_label(format_table({"": names, **captions}))
    return figure


def draw_images(
    x: Tensor,
    lines: Sequence[Sequence[str]],
    title: str,
    colors: Sequence[str] = (),
    across: int = 8,
    foot: float = 0.0,
    grey: int = 1,
) -> Figure:
    """Draw images `(N, C, H, W)` in rows, each over its lines of text.

    Args:
        lines: of each image, the same number of lines for all.
        colors: of each image's last line.
        across: images in a row.
        foot: inches that stay free below.
        grey: number of lines that are grey; the others are black.
    """
    images = scale_to_unit(x)
    # Sizes in units of one column: of an image, and of the lines below it.
    high, text = 0.92 * images.shape[1] / images.shape[2], 0.12 * len(lines[0]) + 0.13
    width, down = max(3, min(across, len(images))), -(-len(images) // across)
    figure, (axis,) = create_panels(
        1, 1.5 * width, 1.5 * (high + text) * down, left=0, right=0, bottom=foot
    )
    axis.axis("off")
    set_titles(axis, shorten_label(title, 100))
    smooth = "nearest" if max(images.shape[1:3]) < 64 else "antialiased"
    for i, image in enumerate(images):
        left, top = i % across, i // across * (high + text)
        extent = (left + 0.04, left + 0.96, top + high, top)
        axis.imshow(
            image, "gray", vmin=0, vmax=1, extent=extent, aspect="auto", interpolation=smooth
        )
        line_colors = [GREY] * grey + ["black"] * (len(lines[i]) - grey)
        if len(colors):
            line_colors[-1] = colors[i]
        for place, (line, color) in enumerate(zip(lines[i], line_colors, strict=True)):
            x_text, y_text = left + 0.5, top + high + 0.03 + 0.12 * place
            style = {"ha": "center", "va": "top", "fontsize": 7, "color": color}
            axis.text(x_text, y_text, shorten_label(line, 24), style)
    axis.set(xlim=(0, width), ylim=(down * (high + text), 0))
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


def _format_features(predictions: Predictions) -> dict[str, list[str]]:
    """Format the first columns of the table rows behind the predictions."""
    columns = predictions.spec.columns[:8] if predictions.spec else ()
    if not columns or predictions.samples is None:
        return {}
    texts: dict[str, list[str]] = {}
    values = predictions.inputs(slice(None)).T.tolist()
    for column, numbers in zip(columns, values, strict=False):
        if column.categories:
            names = dict(enumerate(column.categories))
            texts[column.name] = [names.get(number, "?") for number in numbers]
        else:
            texts[column.name] = [f"{n:.4g}" if n == n else "missing" for n in numbers]
    return texts
