"""Handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, no download."""

from __future__ import annotations

import torch

from src.data.base import DataModule
from src.data.batch import Samples


class Digits(DataModule):
    """Images `(1, 8, 8)` uint8 with values from 0 to 16, and the digit that each shows.

    Source: https://archive.ics.uci.edu/dataset/80 (its test set), as `sklearn.datasets.load_digits`.
    """

    def load(self) -> Samples:
        from sklearn.datasets import load_digits

        images, digits = load_digits(return_X_y=True)
        return Samples(
            x=torch.from_numpy(images).to(torch.uint8).reshape(-1, 1, 8, 8),
            y=torch.from_numpy(digits).long(),
            classes=tuple(str(digit) for digit in range(10)),
            white=16.0,
        )
