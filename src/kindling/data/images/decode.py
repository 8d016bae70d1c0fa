"""From the bytes of an image to pixels of one shape: Pillow's work alone, so that a server without torch does the same.

image_data.py reads the files of a data set with it, prepare.py the requests to a server.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from src.kindling.config.errors import InputError

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
Fit = Literal["crop", "squash", "pad"]

Image.MAX_IMAGE_PIXELS = None  # `decode` checks the header itself, and says which file it was


def decode(path: str, channels: int, max_pixels: int, size: int | None = None) -> Image.Image:
    """An image file as `plain` gives it.

    Raises:
        InputError: naming the file, when it is gone, empty, damaged, too large or no image.
    """
    remedy = "; repair or remove it, or set data.on_error=skip"
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(f"{path}: {width} x {height} pixels are more than data.max_pixels={max_pixels:,}; "
                                 "raise that for real pictures, or remove the file")  # fmt: skip
            return plain(image, channels, size)
    except FileNotFoundError:
        raise InputError(f"{path}: the file has vanished since the folder was read{remedy}") from None
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        empty = os.path.getsize(path) == 0
        reason = "the file is empty" if empty else f"cannot be read as an image: {error}".replace(f" '{path}'", "")
        raise InputError(f"{path}: {reason}{remedy}") from None


def plain(image: Image.Image, channels: int, size: int | None = None) -> Image.Image:
    """An opened image as `L` or `RGB` with 8 bits, turned as its EXIF says.

    Transparency is dropped, 16 bits are scaled to 8. With a size, a JPEG much larger than it is decoded at a
    reduced scale.
    """
    mode = "L" if channels == 1 else "RGB"
    if size is not None:
        image.draft(mode, (2 * size, 2 * size))  # JPEG only; never below twice the size
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I") or turned.mode == "F":
        values = np.asarray(turned, dtype=np.float64)
        turned = Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8))
    if turned.mode == "P":  # a palette may hold transparency
        turned = turned.convert("RGBA")
    return turned.convert(mode)


def fit_to(
    image: Image.Image, size: int, fit: Fit, resample: Image.Resampling = Image.Resampling.BILINEAR, outside: int = 0
) -> Image.Image:
    """The image at `size` x `size`: cropped at the centre, squashed, or padded (with black, if nothing else is said)."""
    if fit == "pad":
        return ImageOps.pad(image, (size, size), resample, color=outside)
    width, height = image.size
    box = None
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if image.size == (size, size):
        return image
    return image.resize((size, size), resample, box=box)
