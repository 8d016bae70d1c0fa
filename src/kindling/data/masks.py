"""Masks as pictures: a class number for each pixel, in a fixed palette, over the picture that it belongs to.

Pillow and numpy alone, so that a server without torch can do the same.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image

# The value of a pixel that does not count, neither in the loss nor in the metrics.
VOID = 255


def _palette() -> Any:
    """Colours `(256, 3)` uint8, each far from those before it: the first black, VOID white."""
    strengths = ((0.9, 0.95), (0.45, 1.0), (0.8, 0.62))  # saturation and value, in turn
    colours = np.zeros((256, 3), dtype=np.uint8)
    for i in range(1, VOID):  # this step keeps the first twenty furthest apart
        hue = (0.1 + 0.24 * (i - 1) + 0.013 * (i // 25)) % 1
        colours[i] = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, *strengths[(i - 1) % 3])]
    colours[VOID] = 255
    return colours


PALETTE = _palette()


def indexed(mask: Any) -> Image.Image:
    """A mask `(H, W)` uint8 as a picture whose pixels are the class numbers, shown in the palette's colours."""
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    picture.putpalette(PALETTE.tobytes())
    return picture


def unfit(mask: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """A square mask at the size of the picture that `src.kindling.data.images.decode.fit_to` made square.

    Args:
        mask: as the net gave it, indexed.
        size: the picture's width and height.
        fit: `crop` (what was cropped away becomes VOID), `squash` or `pad`.
    """
    (width, height), nearest = size, Image.Resampling.NEAREST
    if fit == "crop":
        side = min(size)
        whole = Image.new("P", size, VOID)
        whole.putpalette(PALETTE.tobytes())
        whole.paste(mask.resize((side, side), nearest), (round((width - side) / 2), round((height - side) / 2)))
        return whole
    if fit == "pad":  # rounded as Pillow's `pad` rounds
        side = mask.width
        w, h = (side, round(height / width * side)) if width >= height else (round(width / height * side), side)
        left, top = round((side - w) * 0.5), round((side - h) * 0.5)
        return mask.resize(size, nearest, box=(left, top, left + w, top + h))
    return mask.resize(size, nearest)


def over(picture: Image.Image, mask: Image.Image, share: float = 0.5) -> Image.Image:
    """A picture with its mask blended over it; the first class, mostly the background, and VOID stay clear."""
    shown, numbers = np.asarray(picture.convert("RGB")), np.asarray(mask.resize(picture.size, Image.Resampling.NEAREST))
    return Image.fromarray(blend(shown, numbers, share))


def blend(image: Any, mask: Any, share: float = 0.5) -> Any:
    """The same of arrays: an image `(H, W, 3)` uint8 and a mask `(H, W)`."""
    there = ((mask != 0) & (mask != VOID))[..., None]
    return np.where(there, (1 - share) * image + share * PALETTE[mask], image).astype(np.uint8)
