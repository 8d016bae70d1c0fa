"""Handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, no download."""

from __future__ import annotations

from typing import Any

import torch

from src.data.base import DataModule
from src.data.batch import Samples


class Digits(DataModule):
    """Images `(1, 8, 8)` uint8 with values from 0 to 16, and the digit that each shows.

    Source: https://archive.ics.uci.edu/dataset/80 (its test set), as `sklearn.datasets.load_digits`.

    Args:
        classes: the digits that are taken, in this order; the others are left out.
        base: see DataModule.
    """

    def __init__(self, classes: tuple[int, ...] = tuple(range(10)), **base: Any) -> None:
        super().__init__(**base)
        if len(set(classes)) != len(classes) or not set(classes) <= set(range(10)):
            raise ValueError(f"classes: expected different digits, got {list(classes)}")
        self.classes = classes

    def load(self) -> Samples:
        from sklearn.datasets import load_digits

        images, digits = map(torch.from_numpy, load_digits(return_X_y=True))
        of_class = digits[:, None] == torch.tensor(self.classes)  # N, classes
        taken = of_class.any(dim=1)
        return Samples(
            x=images[taken].to(torch.uint8).reshape(-1, 1, 8, 8),
            y=of_class[taken].long().argmax(dim=1),
            classes=tuple(str(digit) for digit in self.classes),
            white=16.0,
        )
