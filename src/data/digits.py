"""Handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, no download."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from src.kindling.data import DataModule, Samples


class Digits(DataModule):
    """Images `(1, 8, 8)` uint8 with values from 0 to 16, and the digit that each shows.

    They are cut out closely, so that a few samples are enough to tell them apart; on a larger
    canvas they are not.

    Source: https://archive.ics.uci.edu/dataset/80 (its test set), as
    `sklearn.datasets.load_digits`.

    Args:
        classes: the digits that are taken, in this order; the others are left out.
        canvas: height and width of an empty canvas, on which each digit has a random position.
        base: see DataModule.
    """

    def __init__(
        self, classes: tuple[int, ...] = tuple(range(10)), canvas: int = 8, **base: Any
    ) -> None:
        super().__init__(**base)
        if len(set(classes)) != len(classes) or not set(classes) <= set(range(10)):
            raise ValueError(f"classes: expected different digits, got {list(classes)}")
        if canvas < 8:
            raise ValueError(f"canvas: expected at least 8, which the digits need, got {canvas}")
        self.classes, self.canvas = classes, canvas

    def load(self) -> Samples:
        from sklearn.datasets import load_digits

        images, digits = map(torch.from_numpy, load_digits(return_X_y=True))
        of_class = digits[:, None] == torch.tensor(self.classes)  # N, classes
        taken = of_class.any(dim=1)
        return Samples(
            x=self._placed(images.to(torch.uint8).reshape(-1, 1, 8, 8))[taken],
            y=of_class[taken].long().argmax(dim=1),
            classes=tuple(str(digit) for digit in self.classes),
            max_value=16.0,
        )

    def _placed(self, images: Tensor) -> Tensor:
        """Images `(N, 1, 8, 8)` on the canvas; a digit's position is independent of the others."""
        if self.canvas == 8:
            return images
        canvas = images.new_zeros(len(images), 1, self.canvas, self.canvas)
        generator = torch.Generator().manual_seed(0)
        positions = torch.randint(self.canvas - 7, (len(images), 2), generator=generator)
        for i, (row, column) in enumerate(positions.tolist()):
            canvas[i, :, row : row + 8, column : column + 8] = images[i]
        return canvas
