"""Losses of masks, weights for rare classes, and the loss of a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.masks import IGNORED
from src.kindling.data.spec import Spec

# Sums `(S,)` that add up over batches, and the function from those of a split to its loss.
LossSums = tuple[Tensor, Callable[[Tensor], Tensor]]


class DiceLoss(nn.Module):
    """1 minus the Dice coefficient, averaged over the classes in the batch.

    Each class has the same weight, however few its pixels. Milletari et al., V-Net: Fully
    Convolutional Neural Networks for Volumetric Medical Image Segmentation, https://arxiv.org/abs/1606.04797.

    Args:
        smooth: pixels added to overlap and areas, which smooths the loss of small classes.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` and class indices `(B, H, W)` int64 to a scalar."""
        return self.from_sums(self.sums(logits, targets))

    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Overlap, predicted and true area of each class, `(3 * K,)`."""
        counts = (targets != IGNORED).unsqueeze(1)
        predicted = logits.float().softmax(dim=1) * counts
        true = nn.functional.one_hot(targets.clamp(min=0), logits.shape[1]).movedim(-1, 1) * counts
        return torch.cat([one.sum(dim=(0, 2, 3)) for one in (predicted * true, predicted, true)])

    def from_sums(self, sums: Tensor) -> Tensor:
        """The loss of all images that were summed."""
        overlap, predicted, true = sums.reshape(3, -1)
        dice = (2 * overlap + self.smooth) / (predicted + true + self.smooth)
        present = true > 0
        loss: Tensor = 1 - torch.where(present, dice, 0).sum() / present.sum().clamp(min=1)
        return loss


class CrossEntropyDiceLoss(nn.Module):
    """Cross-entropy per pixel plus Dice per region.

    Args:
        dice: the weight of the Dice loss, against 1 of cross-entropy.
        label_smoothing: of cross-entropy.
    """

    def __init__(self, dice: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.share, self.dice = dice, DiceLoss()
        self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits `(B, K, H, W)` and class indices `(B, H, W)` int64 to a scalar."""
        loss: Tensor = self.cross_entropy(logits, targets) + self.share * self.dice(logits, targets)
        return loss

    def sums(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of cross-entropy `(2,)` and of Dice, in one vector."""
        value = self.cross_entropy(logits, targets)
        weighted = _weighted_sums(self.cross_entropy, value, targets)
        return torch.cat([weighted, self.dice.sums(logits, targets)])

    def from_sums(self, sums: Tensor) -> Tensor:
        """The loss of all images that were summed."""
        return sums[0] / sums[1] + self.share * self.dice.from_sums(sums[2:])


def loss_sums(value: Tensor, loss: nn.Module, outputs: Tensor, targets: Tensor) -> LossSums | None:
    """The sums that give the loss of a split; None where it is the mean over the samples.

    A loss of your own that is no mean over samples has methods `sums` and `from_sums`, as DiceLoss.
    """
    own: Any = loss
    if hasattr(own, "sums"):
        return own.sums(outputs, targets), own.from_sums
    if own.__dict__.get("reduction") == "sum":
        return value.float().reshape(1), torch.sum
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss.reduction != "mean":
        return None
    plain = loss.weight is None and targets.ndim == 1 and loss.ignore_index < 0
    if plain or targets.is_floating_point():
        return None
    return _weighted_sums(loss, value, targets), lambda sums: sums[0] / sums[1]


def _weighted_sums(
    loss: nn.CrossEntropyLoss | nn.NLLLoss, value: Tensor, targets: Tensor
) -> Tensor:
    """The weighted losses and the weights of the targets that count, `(2,)`."""
    counted = targets.ne(loss.ignore_index)
    weights = 1.0 if loss.weight is None else loss.weight[targets.where(counted, 0)]
    weight = (weights * counted).float().sum()
    return torch.stack([(value * weight).where(weight > 0, 0.0), weight])


def weigh_classes(loss: nn.Module, spec: Spec) -> str:
    """Weigh each class by the inverse of its share of the training split; return a note."""
    _require(loss, (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss))
    counts = torch.tensor(spec.class_counts, dtype=torch.float32)
    loss.weight = counts.sum() / (len(counts) * counts)
    return f"class weights in the loss: {_list_weights(spec, loss.weight)}"


def weigh_labels(loss: nn.Module, spec: Spec) -> str:
    """Weigh each label by its ratio of training samples without it to with it; return a note."""
    _require(loss, (nn.BCEWithLogitsLoss,))
    share = torch.tensor(spec.target_mean).clamp(min=1e-6)
    loss.pos_weight = (1 - share) / share
    return f"label weights in the loss: {_list_weights(spec, loss.pos_weight)}"


def _require(loss: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    if not isinstance(loss, kinds):
        problem, remedy = type(loss).__name__, f"set task.loss to torch.nn.{kinds[0].__name__}"
        raise InputError(f"task.class_weights: {problem} takes no weights; {remedy}")


def _list_weights(spec: Spec, weights: Tensor) -> str:
    pairs = zip(spec.classes, weights.tolist(), strict=True)
    return join_names([f"{name} {weight:.3g}" for name, weight in pairs], most=10)
