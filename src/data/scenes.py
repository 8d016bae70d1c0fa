"""Scenes of scikit-learn's handwritten digits at random places; no download."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from src.kindling.config import InputError
from src.kindling.data import STAGES, DataModule, Samples

INK = 4  # pixels of a digit, 0 to 16, belong to it from this value on


class Scenes(DataModule):
    """Images `(1, size, size)` uint8 with values from 0 to 16, composed once and held in memory.

    The scenes of the three splits are composed of different digits, 70, 15 and 15 % of them, so
    that no digit is in two splits.

    Args:
        predict: `mask` (each pixel's class: the background or a digit), `labels` (which digits
            occur), or `place` (x and y of the only digit's center in pixels from the upper left
            corner, and its height).
        size: height and width in pixels.
        digits: the fewest and the most digits in a scene.
        scenes: how many for training, validation and test.
        zoom: the smallest and the largest magnification of a digit, which has 8 x 8 pixels.
        noise: the standard deviation of what is added to each pixel.
        base: see DataModule.
    """

    def __init__(
        self,
        predict: Literal["mask", "labels", "place"] = "mask",
        size: int = 32,
        digits: tuple[int, int] = (1, 4),
        scenes: tuple[int, int, int] = (1400, 300, 300),
        zoom: tuple[float, float] = (1.0, 1.5),
        noise: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not 1 <= digits[0] <= digits[1]:
            expected = "expected the fewest and the most in a scene, at least 1"
            raise InputError(f"data.digits: {expected}, got {list(digits)}")
        if predict == "place" and digits != (1, 1):
            problem = f"got {list(digits)}, but localization needs exactly one digit"
            raise InputError(f"data.digits: {problem}; set data.digits=[1,1]")
        if not 0 < zoom[0] <= zoom[1] or round(8 * zoom[1]) > size:
            expected = "expected a smallest and a largest above 0, at which 8 pixels fit into"
            raise InputError(f"data.zoom: {expected} {size}, got {list(zoom)}")
        self.predict, self.size, self.digits, self.scenes = predict, size, digits, scenes
        self.zoom, self.noise = zoom, noise

    def load(self) -> Samples:
        from sklearn.datasets import load_digits

        digits = load_digits()
        rng = np.random.default_rng(0)
        order = rng.permutation(len(digits.target))
        ends = (np.cumsum([0.7, 0.15]) * len(order)).astype(int)
        scenes = []
        for pool, count in zip(np.split(order, ends), self.scenes, strict=True):
            images, classes = digits.images[pool], digits.target[pool]
            scenes += [self._compose(rng, images, classes) for _ in range(count)]
        stacked = (torch.from_numpy(np.stack(x)) for x in zip(*scenes, strict=True))
        images, masks, labels, places = stacked
        numbers = torch.split(torch.arange(len(scenes)), list(self.scenes))
        names = tuple(map(str, range(10)))
        targets: dict[str, dict[str, Any]] = {
            "mask": {"y": masks, "classes": ("background", *names), "target": "digits"},
            "labels": {"y": labels, "classes": names, "target": "digits"},
            "place": {"y": places, "targets": ("x", "y", "height"), "target": "place (pixels)"},
        }
        return Samples(
            x=images.unsqueeze(1),
            official=dict(zip(STAGES, numbers, strict=True)),
            max_value=16.0,
            **targets[self.predict],
        )

    def _compose(
        self, rng: np.random.Generator, images: Any, classes: Any
    ) -> tuple[Any, Any, Any, Any]:
        """An image and mask `(size, size)` uint8, labels `(10,)`, the last digit's place `(3,)`."""
        from PIL import Image

        scene, mask = np.zeros((self.size, self.size)), np.zeros((self.size, self.size), np.uint8)
        free, place = np.ones_like(mask, dtype=bool), np.zeros(3, dtype=np.float32)
        for _ in range(rng.integers(*self.digits, endpoint=True)):
            chosen, side = rng.integers(len(classes)), round(8 * rng.uniform(*self.zoom))
            digit = Image.fromarray(images[chosen].astype(np.float32)).resize((side, side))
            box = self._find_box(rng, free, side)
            if box is None:
                continue
            free[box] = False
            scene[box] = np.asarray(digit)
            ink = scene[box] >= INK
            mask[box][ink] = classes[chosen] + 1
            rows, columns = np.nonzero(ink)
            x = box[1].start + (columns.min() + columns.max() + 1) / 2
            y = box[0].start + (rows.min() + rows.max() + 1) / 2
            place[:] = x, y, np.ptp(rows) + 1
        scene += rng.normal(0, self.noise, scene.shape)
        labels = np.isin(np.arange(10) + 1, mask).astype(np.int64)
        return scene.clip(0, 16).round().astype(np.uint8), mask, labels, place

    def _find_box(
        self, rng: np.random.Generator, free: Any, side: int
    ) -> tuple[slice, slice] | None:
        """A free place for a digit; in a crowded scene there may be none."""
        for _ in range(20):
            top, left = rng.integers(self.size - side, size=2, endpoint=True)
            box = slice(top, top + side), slice(left, left + side)
            if free[box].all():
                return box
        return None
