"""Masks as images: a class number for each pixel, in a fixed palette, blended over their image.

Pillow and numpy only, so that a server without torch does the same.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image

# The value of a pixel that counts neither in the loss nor in the metrics.
VOID = 255
# The target of such a pixel, as `torch.nn.CrossEntropyLoss` ignores it.
IGNORED = -100


def _palette() -> Any:
    """Colors `(256, 3)` uint8, each far from those before it: the first black, VOID white."""
    saturations_and_values = ((0.9, 0.95), (0.45, 1.0), (0.8, 0.62))
    colors = np.zeros((256, 3), dtype=np.uint8)
    for i in range(1, VOID):  # this step keeps the first twenty furthest apart
        hue = (0.1 + 0.24 * (i - 1) + 0.013 * (i // 25)) % 1
        rgb = colorsys.hsv_to_rgb(hue, *saturations_and_values[(i - 1) % 3])
        colors[i] = [round(255 * part) for part in rgb]
    colors[VOID] = 255
    return colors


PALETTE = _palette()


def indexed(mask: Any) -> Image.Image:
    """A mask `(H, W)` uint8 as an image whose pixels are the class numbers, with the palette."""
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(PALETTE.tobytes())
    return image


def unfit(mask: Image.Image, size: tuple[int, int], resize_mode: str) -> Image.Image:
    """Undo `make_square` of decode.py: a square mask at the size of its image.

    Args:
        mask: as the net gave it, indexed.
        size: the image's width and height.
        resize_mode: `crop` (what was cropped away becomes VOID), `squash` or `pad`.
    """
    (width, height), nearest = size, Image.Resampling.NEAREST
    if resize_mode == "crop":
        side = min(size)
        whole = indexed(np.full((height, width), VOID))
        corner = round((width - side) / 2), round((height - side) / 2)
        whole.paste(mask.resize((side, side), nearest), corner)
        return whole
    if resize_mode == "pad":  # rounded as Pillow's `pad` rounds
        side = mask.width
        w = side if width >= height else round(width / height * side)
        h = side if height >= width else round(height / width * side)
        left, top = round((side - w) * 0.5), round((side - h) * 0.5)
        return mask.resize(size, nearest, box=(left, top, left + w, top + h))
    return mask.resize(size, nearest)


def over(image: Image.Image, mask: Image.Image, share: float = 0.5) -> Image.Image:
    """Blend a mask over an image; the first class, mostly the background, and VOID stay clear."""
    numbers = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
    return Image.fromarray(blend(np.asarray(image.convert("RGB")), numbers, share))


def blend(image: Any, mask: Any, share: float = 0.5) -> Any:
    """The same of arrays: an image `(H, W, 3)` uint8 and a mask `(H, W)`."""
    colored = ((mask != 0) & (mask != VOID))[..., None]
    return np.where(colored, (1 - share) * image + share * PALETTE[mask], image).astype(np.uint8)
