"""Small pictures with masks, in files: bright discs and squares on a dark ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(root: Path, count: int) -> None:
    """`root/images/*.jpg` of 30 x 24 pixels, `root/masks/*.png` with 0, 1 (disc) and 2 (square), and `root/classes.txt`."""
    draw = np.random.default_rng(0)
    rows, columns = np.indices((24, 30))
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\ndisc\nsquare\n")
    for i in range(count):
        mask = np.zeros((24, 30), dtype=np.uint8)
        for number in (1, 2):
            y, x = draw.integers(6, 18), draw.integers(6, 24)
            away = (
                np.maximum(abs(rows - y), abs(columns - x))
                if number == 2
                else np.hypot(rows - y, columns - x)
            )
            mask[away < 5] = number
        shades = np.array([[40, 40, 40], [220, 120, 40], [60, 120, 220]])[mask] + draw.normal(
            0, 10, (24, 30, 3)
        )
        Image.fromarray(shades.clip(0, 255).astype(np.uint8)).save(
            root / "images" / f"{i:03d}.jpg", quality=95
        )
        Image.fromarray(mask).save(root / "masks" / f"{i:03d}.png")
