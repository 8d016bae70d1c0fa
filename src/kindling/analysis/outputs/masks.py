"""A class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from src.kindling.analysis import class_plots, drawing
from src.kindling.analysis.outputs.base import Outputs
from src.kindling.analysis.predictions import Array, Predictions
from src.kindling.analysis.sample_plots import draw_images, scale_to_unit
from src.kindling.data.masks import IGNORED, PALETTE, VOID, blend
from src.kindling.data.spec import TargetType
from src.kindling.nn.metrics import confusions, overlaps

LEGEND = 20  # classes of a legend


class Masks(Outputs):
    """Logits `(B, K, H, W)` to a mask of class numbers: the most probable of each pixel.

    Args:
        names: of the K classes.
        size: height and width of a mask.
        counts: training pixels of each class; equal where they are not known.
    """

    target_type: ClassVar[TargetType] = "mask"
    fields: ClassVar[tuple[str, ...]] = ("classes", "target_shape", "class_counts")
    # Probabilities of every pixel would fill the disk: predictions keep masks.
    column: ClassVar[str] = "prediction"
    score_name: ClassVar[str] = "iou"
    decision: ClassVar[dict[str, Any]] = {"kind": "argmax"}
    counted: ClassVar[str] = "pixels"
    gallery: ClassVar[int] = 8

    def __init__(
        self, names: Sequence[str], size: tuple[int, ...], counts: Sequence[int] = ()
    ) -> None:
        self.names, self.size = tuple(names), tuple(size)
        self.counts = tuple(counts) or (1,) * len(self.names)
        self.shape = (len(self.names), *self.size)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Convert logits to the class probabilities of each pixel, `(B, K, H, W)`."""
        return raw.softmax(dim=1)

    def decode(self, probability: Tensor) -> Tensor:
        """Return masks `(B, H, W)` uint8, from probabilities or logits."""
        return probability.argmax(dim=1).to(torch.uint8)

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """Return `prediction` `(B, H, W)` uint8."""
        return {"prediction": self.decode(raw)}

    def to_mask(self, target: Tensor) -> Tensor:
        """Convert targets `(B, H, W)` of a loss to masks uint8; 255 is ignored."""
        return target.masked_fill(target == IGNORED, VOID).to(torch.uint8)

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compute the IoU of each image `(B,)`: the mean over its true and predicted classes."""
        masks = self.decode(outputs) if outputs.ndim == 4 else outputs
        iou = overlaps(confusions(masks, target, len(self.names)))["iou"]
        return iou.nanmean(dim=1).nan_to_num(1.0)

    def baseline(self) -> Tensor:
        """Return the most frequent class in training for each pixel, `(H, W)`."""
        return torch.tensor(self.counts).argmax().to(torch.uint8).expand(self.size)

    def format(self, target: Tensor) -> str:
        return ""  # the mask itself is drawn

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """Return the masks, and the share of pixels of each class."""
        masks = columns["prediction"]
        table = {"prediction": masks.numpy()}
        for i, name in enumerate(self.names):
            table[f"share_{name}"] = (masks == i).float().mean(dim=(1, 2)).numpy()
        return table

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        if not len(predictions):
            return {}
        counts = np.zeros((len(self.names),) * 2, dtype=np.int64)
        for rows in np.array_split(np.arange(len(predictions)), -(-len(predictions) // 64)):
            some = predictions.take(rows)
            masks, target = (torch.from_numpy(some[name]) for name in ("prediction", "target"))
            counts += confusions(masks, target, len(counts)).sum(dim=0).numpy()
        found = overlaps(torch.from_numpy(counts))
        scores = {
            "IoU": found["iou"].nan_to_num().numpy(),
            "Dice": found["dice"].nan_to_num().numpy(),
        }
        support = counts.sum(axis=1)
        worst = np.argsort(predictions["score"], kind="stable")[: self.gallery]
        return {
            "confusion": class_plots.plot_confusion(counts, self.names, "pixels"),
            "overlap": class_plots.plot_scores(scores, support, self.names, "pixels"),
            "worst": self.plot_samples(predictions.take(worst), "Lowest IoU"),
            "examples": self.plot_examples(predictions),
        }

    def plot_samples(
        self, predictions: Predictions, title: str, before: Predictions | None = None
    ) -> Figure:
        """Plot images, and again under their true and predicted masks."""
        if not len(predictions) or predictions.samples is None:
            return drawing.draw_message(f"{title}: no data")
        target = predictions["target"]
        masks = {"": np.zeros_like(target), "true": target}
        if before:
            masks["untrained"] = before["prediction"]
        masks["predicted"] = predictions["prediction"]
        captions = []
        for row, score in enumerate(predictions["score"]):
            captions.append([predictions.name(row), f"IoU {score:.2f}"])
            captions += [[heading, ""] for heading in [*masks][1:]]
        x = predictions.inputs(slice(None)).repeat_interleave(len(masks), dim=0)
        stacked = np.stack(list(masks.values()), axis=1).reshape(-1, *target.shape[1:])
        return self._draw(x, stacked, captions, title, 2 * len(masks))

    def plot_inputs(
        self, x: Tensor, y: Sequence[Tensor], captions: Sequence[str], title: str
    ) -> Figure:
        masks = np.stack([self.to_mask(mask.long()).numpy() for mask in y])
        return self._draw(x, masks, [[caption] for caption in captions], title)

    def _draw(
        self,
        x: Tensor,
        masks: Array,
        captions: Sequence[Sequence[str]],
        title: str,
        across: int = 8,
    ) -> Figure:
        """Draw images `(N, C, H, W)` under masks `(N, H, W)`, with a legend of the classes."""
        images = torch.from_numpy(scale_to_unit(x))
        images = images.movedim(3, 1) if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)
        if images.shape[2:] != masks.shape[1:]:  # a transform resized the masks
            images = torch.nn.functional.interpolate(images, masks.shape[1:], mode="bilinear")
        pixels = (255 * images.movedim(1, 3)).round().numpy().astype(np.uint8)
        blended = torch.from_numpy(blend(pixels, masks, 0.7)).movedim(3, 1)
        figure = draw_images(blended, captions, title, across=across)
        present = [i for i in np.unique(masks).tolist() if 0 < i < len(self.names)][:LEGEND]
        labels = [drawing.shorten_label(self.names[i]) for i in present]
        patches = [Patch(color=PALETTE[i] / 255) for i in present]
        if patches:
            figure.legend(patches, labels, loc="outside lower center", ncols=10, fontsize=7)
        return figure
