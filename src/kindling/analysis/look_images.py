"""Plots of image data: samples as they are, and as the net receives them."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.kindling.analysis.mask_plots import draw_masks
from src.kindling.analysis.predictions import spread
from src.kindling.analysis.sample_plots import draw_images
from src.kindling.data.data_module import DataModule
from src.kindling.data.dataset import BatchDataset
from src.kindling.data.masks import IGNORED, VOID
from src.kindling.data.preprocess import Standardize

IMAGES = 16


def plot_images(data: DataModule) -> dict[str, Figure]:
    """Plot training images before and after augmentation, and test images."""
    train, test = data.indices["train"], data.indices["test"]
    chosen = train[spread(len(train), IMAGES)]
    plain, target = BatchDataset(data.samples, None, None)[(0, 0, chosen)]
    x, y = _augment(data, chosen)
    highest = 255.0 if float(plain.max()) > 16 else float(plain.max())
    pairs = torch.stack([plain.float(), x.clamp(0, highest)], dim=1).flatten(0, 1)
    masks = target
    if data.spec.target_type == "mask":
        masks = torch.stack([target, y], dim=1).flatten(0, 1)
    lines = [text for one in target for text in (_format_target(data, one), "in training")]
    title = "Training images, and each as the net receives it in the first epoch"
    figures = {"train": _draw(data, pairs, masks, lines, title)}
    if len(test):
        x, y = data.datasets["test"][(0, 0, test[spread(len(test), 2 * IMAGES)])]
        lines = [_format_target(data, one) for one in y]
        figures["test"] = _draw(data, x, y, lines, "Test images, as the net receives them")
    return figures


def _augment(data: DataModule, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Transform some training samples as in the first epoch; the images in their raw unit."""
    scale = data.prepare.preprocess
    assert isinstance(scale, Standardize)
    torch.manual_seed(data.seed)
    x, y = data.prepare(*data.datasets["train"][(0, 0, chosen)], augment=True)
    if data.spec.target_type == "mask":
        y = y.masked_fill(y == IGNORED, VOID).to(torch.uint8)
    return scale.inverse(x), y


def _draw(data: DataModule, x: Tensor, masks: Tensor, lines: list[str], title: str) -> Figure:
    texts = [[line] for line in lines]
    if data.spec.target_type == "mask":
        return draw_masks(x, masks.numpy(), texts, title, data.spec.classes)
    return draw_images(x, texts, title)


def _format_target(data: DataModule, target: Tensor) -> str:
    names, kind = data.spec.classes, data.spec.target_type
    if kind == "mask":
        return ""
    if kind == "labels":
        return ";".join(names[i] for i in np.flatnonzero(target.numpy()))
    return names[int(target)] if kind == "class" else ", ".join(f"{v:.4g}" for v in target.tolist())
