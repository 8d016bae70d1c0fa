"""What happens to a batch on the training device: preprocessing and batch augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.data.augment import BatchTransform, compose
from src.kindling.data.masks import IGNORED, VOID
from src.kindling.data.preprocess import InputStats, build_preprocess, raw_device
from src.kindling.data.spec import Spec


class BatchPreparation:
    """Standardizes raw batches and, in training, augments them by batch transforms, in order."""

    preprocess: nn.Module  # raw inputs to standardized ones; there after `fit`

    def __init__(self, augment: Sequence[BatchTransform]) -> None:
        self.augment = compose(augment)
        self.mixing = [type(one).__name__ for one in augment if one.mixes]

    def fit(self, spec: Spec, stats: InputStats | None = None) -> None:
        """Prepare inputs as a pretrained net expects; None standardizes by the training split."""
        if self.mixing and spec.target_type == "mask":
            problem = "blends targets, and the classes of a mask cannot be blended; remove it"
            raise InputError(f"data.train_transforms: {self.mixing[0]} {problem}")
        self.spec = spec
        self.preprocess = build_preprocess(spec, stats)
        self.device = self.raw_device = torch.device("cpu")
        for transform in self.augment:
            transform.fit(stats.of(spec) if stats else spec)

    def __call__(self, x: Tensor, y: Tensor, augment: bool = False) -> tuple[Tensor, Tensor]:
        """Standardize raw inputs `(B, *raw_shape)` and, in training, augment them.

        Args:
            x, y: as the loaders give them; x is moved to the device of y.
            augment: apply the batch transforms. If one of them mixes samples, class numbers
                become shares of the classes `(B, classes)`.

        Returns:
            Floats `(B, *in_shape)`, and targets; ignored pixels of a mask are -100.
        """
        if y.device != self.device:
            self.device, self.raw_device = y.device, raw_device(self.preprocess, y.device)
            self.preprocess.to(self.raw_device)
            nn.ModuleList(self.augment).to(y.device)
        x = self.preprocess(x.to(self.raw_device)).to(y.device)
        if augment and self.mixing:
            y = nn.functional.one_hot(y, self.spec.num_outputs) if y.ndim == 1 else y
            y = y if y.is_floating_point() else y.float()
        for transform in self.augment if augment else ():
            x, y = transform(x, y)
        if self.spec.target_type == "mask":
            y = y.long().masked_fill(y == VOID, IGNORED)
        return x, y
