"""Scenes composed of scikit-learn's handwritten digits at random places: what is where, with no download."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from src.kindling.config.errors import InputError
from src.kindling.data.batch import STAGES, Samples, Stage
from src.kindling.data.data_module import DataModule

INK = 4  # a digit's pixels, 0 to 16, are its own from this value on; fainter ones stay background


class Scenes(DataModule):
    """Images `(1, size, size)` uint8 with values from 0 to 16, composed once and held in memory.

    The scenes of the three splits are composed of different digits, 70, 15 and 15 % of them, so that nothing is tested
    on a digit that was trained on.

    Args:
        predict: `mask` (each pixel's class: the background or a digit), `labels` (which digits occur), or `place` (x and
            y of the only digit's centre in pixels from the upper left corner, and its height).
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
            raise InputError(
                f"data.digits: expected the fewest and the most in a scene, at least 1, got {list(digits)}"
            )
        if predict == "place" and digits != (1, 1):
            raise InputError(
                f"data.digits: a place is that of the only digit, so data.digits=[1,1], got {list(digits)}"
            )
        if not 0 < zoom[0] <= zoom[1] or round(8 * zoom[1]) > size:
            raise InputError(f"data.zoom: expected a smallest and a largest above 0, at which 8 pixels fit into {size}, got "
                             f"{list(zoom)}")  # fmt: skip
        self.predict, self.size, self.digits, self.scenes = predict, size, digits, scenes
        self.zoom, self.noise = zoom, noise

    def load(self) -> Samples:
        from sklearn.datasets import load_digits

        found = load_digits()
        draw = np.random.default_rng(0)
        order, ends = draw.permutation(len(found.target)), np.cumsum([0.7, 0.15]) * len(found.target)
        pools = np.split(order, ends.astype(int))
        scenes = [self._scene(draw, found.images[pool], found.target[pool])
                  for pool, count in zip(pools, self.scenes, strict=True) for _ in range(count)]  # fmt: skip
        images, masks, labels, places = (np.stack(parts) for parts in zip(*scenes, strict=True))
        stages = np.repeat(np.arange(3), self.scenes)
        official: dict[Stage, torch.Tensor] = {
            stage: torch.from_numpy(np.flatnonzero(stages == i)) for i, stage in enumerate(STAGES)
        }
        names = tuple(str(digit) for digit in range(10))
        what: dict[str, Any] = {
            "mask": {"y": torch.from_numpy(masks), "classes": ("background", *names), "target": "digits"},
            "labels": {"y": torch.from_numpy(labels), "classes": names, "target": "digits"},
            "place": {"y": torch.from_numpy(places), "targets": ("x", "y", "height"), "target": "place (pixels)"},
        }[self.predict]
        return Samples(x=torch.from_numpy(images).unsqueeze(1), official=official, white=16.0, **what)

    def _scene(self, draw: np.random.Generator, images: Any, numbers: Any) -> tuple[Any, Any, Any, Any]:
        """One scene: its image and mask `(size, size)` uint8, labels `(10,)` and the last digit's place `(3,)`."""
        from PIL import Image

        image, mask = np.zeros((self.size, self.size)), np.zeros((self.size, self.size), dtype=np.uint8)
        free, place = np.ones_like(mask, dtype=bool), np.zeros(3, dtype=np.float32)
        for wanted in range(draw.integers(*self.digits, endpoint=True)):
            chosen, side = draw.integers(len(numbers)), round(8 * draw.uniform(*self.zoom))
            digit = np.asarray(Image.fromarray(images[chosen].astype(np.float32)).resize((side, side)))
            for _ in range(20):  # in a crowded scene a digit may find no place
                top, left = draw.integers(self.size - side, size=2, endpoint=True)
                box = slice(top, top + side), slice(left, left + side)
                if free[box].all():
                    break
            else:
                assert wanted
                continue
            free[box] = False
            image[box] = digit
            ink = digit >= INK
            mask[box][ink] = numbers[chosen] + 1
            rows, columns = np.nonzero(ink)
            place[:] = (
                left + (columns.min() + columns.max() + 1) / 2,
                top + (rows.min() + rows.max() + 1) / 2,
                np.ptp(rows) + 1,
            )
        image += draw.normal(0, self.noise, image.shape)
        there = np.isin(np.arange(10) + 1, mask).astype(np.int64)
        return image.clip(0, 16).round().astype(np.uint8), mask, there, place
