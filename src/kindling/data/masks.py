"""Masks as images: a class number for each pixel, in a fixed palette, blended over their image.

Pillow and numpy only, so that a server without torch does the same.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image

VOID = 255  # the value of a pixel that counts neither in the loss nor in the metrics
IGNORED = -100  # the target of such a pixel, as `torch.nn.CrossEntropyLoss` ignores it


def _palette() -> Any:
    """Colors `(256, 3)` uint8, each far from those before it: the first black, VOID white."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for i in range(1, VOID):  # this step keeps the first twenty furthest apart
        hue = (0.1 + 0.24 * (i - 1) + 0.013 * (i // 25)) % 1
        saturation, value = ((0.9, 0.95), (0.45, 1.0), (0.8, 0.62))[(i - 1) % 3]
        colors[i] = np.round(np.multiply(255, colorsys.hsv_to_rgb(hue, saturation, value)))
    colors[VOID] = 255
    return colors


PALETTE = _palette()


def indexed(mask: Any) -> Image.Image:
    """A mask `(H, W)` uint8 as an image whose pixels are the class numbers, with the palette."""
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(PALETTE.tobytes())
    return image


def unfit(mask: Image.Image, size: tuple[int, int], resize_mode: str) -> Image.Image:
    """Undo `make_square` of decode.py: an indexed mask at its image's width and height."""
    (width, height), nearest = size, Image.Resampling.NEAREST
    if resize_mode == "crop":  # the rest becomes VOID
        side = min(size)
        whole = indexed(np.full((height, width), VOID))
        corner = round((width - side) / 2), round((height - side) / 2)
        whole.paste(mask.resize((side, side), nearest), corner)
        return whole
    box = (0, 0, *mask.size)
    if resize_mode == "pad":  # rounded as Pillow's `pad` rounds
        w, h = (round(side / max(size) * mask.width) for side in size)
        left, top = round((mask.width - w) * 0.5), round((mask.width - h) * 0.5)
        box = left, top, left + w, top + h
    return mask.resize(size, nearest, box=box)


def over(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Blend a mask over an image; the first class, mostly the background, and VOID stay clear."""
    numbers = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
    return Image.fromarray(blend(np.asarray(image.convert("RGB")), numbers))


def blend(image: Any, mask: Any, share: float = 0.5) -> Any:
    """The same of arrays: an image `(H, W, 3)` uint8 and a mask `(H, W)`."""
    colored = ((mask != 0) & (mask != VOID))[..., None]
    return np.where(colored, (1 - share) * image + share * PALETTE[mask], image).astype(np.uint8)
