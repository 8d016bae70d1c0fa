"""The Dice loss of masks, alone and added to cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IGNORED = nn.CrossEntropyLoss().ignore_index  # the target of pixels that do not count, torch's own


class DiceLoss(nn.Module):
    """1 minus the Dice coefficient of what is claimed and what is there, the mean over the classes that the batch shows.

    Overlap counts for each class alike, however few its pixels are. Milletari et al., V-Net: Fully Convolutional Neural
    Networks for Volumetric Medical Image Segmentation, https://arxiv.org/abs/1606.04797.

    Args:
        smooth: pixels that are added to the overlap and to the areas, so that a class of few pixels is no jump.
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
