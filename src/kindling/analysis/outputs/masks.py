"""A class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from src.kindling.analysis.outputs.base import check_target
from src.kindling.analysis.predictions import Array, Predictions, spread
from src.kindling.data.masks import IGNORED, VOID
from src.kindling.data.spec import Spec
from src.kindling.nn.metrics import confusions, overlaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Masks:
    """Logits `(B, K, H, W)` to a mask of class numbers: the most probable of each pixel.

    Args:
        names: of the K classes.
        size: height and width of a mask.
        counts: training pixels of each class; equal where they are not known.
    """

    # Probabilities of every pixel would fill the disk: predictions keep masks.
    column: ClassVar[str] = "prediction"
    answer_name: ClassVar[str] = "probability"
    score_name: ClassVar[str] = "iou"
    decision: ClassVar[dict[str, Any]] = {"kind": "argmax"}

    def __init__(
        self, names: Sequence[str], size: tuple[int, ...], counts: Sequence[int] = ()
    ) -> None:
        self.names, self.size = tuple(names), tuple(size)
        self.counts = tuple(counts) or (1,) * len(self.names)
        self.shape: tuple[int, ...] = (len(self.names), *self.size)

    @classmethod
    def of(cls, spec: Spec) -> Masks:
        """Outputs for the target of the data.

        Raises:
            InputError: when the data has another kind of target.
        """
        check_target(spec, "mask")
        return cls(spec.classes, spec.target_shape, spec.class_counts)

    def predict_proba(self, raw: Tensor) -> Tensor:
        """Logits to the class probabilities of each pixel, `(B, K, H, W)`."""
        return raw.softmax(dim=1)

    def decode(self, probability: Tensor) -> Tensor:
        """Masks `(B, H, W)` uint8, from probabilities or logits."""
        return probability.argmax(dim=1).to(torch.uint8)

    def columns(self, raw: Tensor) -> dict[str, Tensor]:
        """`prediction` `(B, H, W)` uint8."""
        return {"prediction": self.decode(raw)}

    def to_mask(self, target: Tensor) -> Tensor:
        """Targets `(B, H, W)` of a loss as masks uint8; 255 is ignored."""
        return target.masked_fill(target == IGNORED, VOID).to(torch.uint8)

    def score(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The IoU of each image `(B,)`: the mean over its true and predicted classes."""
        masks = self.decode(outputs) if outputs.ndim == 4 else outputs
        iou = overlaps(confusions(masks, target, len(self.names)))["iou"]
        return iou.nanmean(dim=1).nan_to_num(1.0)

    def baseline(self) -> Tensor:
        """The most frequent class in training for each pixel, `(H, W)`."""
        return torch.tensor(self.counts).argmax().to(torch.uint8).expand(self.size)

    def to_frame(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Any]:
        """The masks, and the share of pixels of each class."""
        masks = columns["prediction"]
        table = {"prediction": masks.numpy()}
        for i, name in enumerate(self.names):
            table[f"share_{name}"] = (masks == i).float().mean(dim=(1, 2)).numpy()
        return table

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        from src.kindling.analysis import class_plots, drawing, mask_plots

        if not len(predictions):
            return {}
        counts = self._confusion(predictions)
        order = np.argsort(predictions["score"], kind="stable")
        worst = predictions.take(order[: drawing.SAMPLES // 2])
        return {
            "confusion": class_plots.plot_confusion_counts(counts, self.names, "pixels"),
            "overlap": mask_plots.plot_overlap(counts, self.names),
            "worst": mask_plots.plot_masks(worst, "Lowest IoU"),
            "examples": self.plot_examples(predictions),
        }

    def plot_examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        from src.kindling.analysis import drawing, mask_plots

        rows = spread(len(predictions), drawing.SAMPLES // 2)
        title = "Examples" if before is None else "Before and after training"
        before = before and before.take(rows)
        return mask_plots.plot_masks(predictions.take(rows), title, before)

    def _confusion(self, predictions: Predictions) -> Array:
        """Pixels of each class (rows) by the predicted class, over all images, `(K, K)`."""
        counts = np.zeros((len(self.names),) * 2, dtype=np.int64)
        for start in range(0, len(predictions), 64):
            masks = torch.from_numpy(predictions["prediction"][start : start + 64])
            targets = torch.from_numpy(predictions["target"][start : start + 64])
            counts += confusions(masks, targets, len(counts)).sum(dim=0).numpy()
        return counts
