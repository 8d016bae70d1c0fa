"""Losses of masks, and weights for rare classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.masks import IGNORED
from src.kindling.data.spec import Spec


class DiceLoss(nn.Module):
    """1 minus the Dice coefficient, averaged over the classes in the batch.

    Each class has the same weight, however few its pixels. Milletari et al., V-Net: Fully
    Convolutional Neural Networks for Volumetric Medical Image Segmentation, https://arxiv.org/abs/1606.04797.

    Args:
        smooth: pixels added to overlap and areas, to smooth the loss of classes of few pixels.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` and class numbers `(B, H, W)` int64 to one number."""
        counts = (targets != IGNORED).unsqueeze(1)
        claimed = logits.float().softmax(dim=1) * counts
        there = nn.functional.one_hot(targets.clamp(min=0), logits.shape[1]).movedim(-1, 1) * counts
        overlap = (claimed * there).sum(dim=(0, 2, 3))
        areas = claimed.sum(dim=(0, 2, 3)) + there.sum(dim=(0, 2, 3))
        dice = (2 * overlap + self.smooth) / (areas + self.smooth)
        shown = there.any(dim=3).any(dim=2).any(dim=0)
        return 1 - torch.where(shown, dice, 0).sum() / shown.sum().clamp(min=1)


class CrossEntropyDiceLoss(nn.Module):
    """Cross-entropy, which judges pixel by pixel, plus Dice, which judges whole regions.

    Args:
        dice: the weight of the Dice loss, against 1 of cross-entropy.
        label_smoothing: of cross-entropy.
    """

    def __init__(self, dice: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.share, self.dice = dice, DiceLoss()
        self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` and class numbers `(B, H, W)` int64 to one number."""
        loss: Tensor = self.cross_entropy(logits, targets) + self.share * self.dice(logits, targets)
        return loss


def weigh_classes(loss: nn.Module, spec: Spec) -> str:
    """Weigh each class in a loss by the inverse of its share of the training split.

    Returns:
        A line that names the weights.

    Raises:
        InputError: when the loss takes no weights.
    """
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss):
        name = type(loss).__name__
        raise InputError(
            f"task.class_weights: {name} takes no weights; "
            "set task.loss to torch.nn.CrossEntropyLoss"
        )
    counts = torch.tensor(spec.class_counts, dtype=torch.float32)
    loss.weight = counts.sum() / (len(counts) * counts)
    return f"class weights in the loss: {_list_weights(spec, loss.weight)}"


def weigh_labels(loss: nn.Module, spec: Spec) -> str:
    """Weigh each label's presence by the ratio of training samples without it to those with it.

    Returns:
        A line that names the weights.

    Raises:
        InputError: when the loss takes no weights.
    """
    if not isinstance(loss, nn.BCEWithLogitsLoss):
        name = type(loss).__name__
        raise InputError(
            f"task.class_weights: {name} takes no weights; "
            "set task.loss to torch.nn.BCEWithLogitsLoss"
        )
    share = torch.tensor(spec.target_mean).clamp(min=1e-6)
    loss.pos_weight = (1 - share) / share
    return f"weights of the labels' presence in the loss: {_list_weights(spec, loss.pos_weight)}"


def _list_weights(spec: Spec, weights: Tensor) -> str:
    pairs = zip(spec.classes, weights.tolist(), strict=True)
    return join_names([f"{name} {weight:.3g}" for name, weight in pairs], most=10)
