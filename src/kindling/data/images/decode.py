"""Decode image files to 8-bit pixels of one shape, with Pillow and without torch."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import numpy as np
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps

from src.kindling.config.errors import InputError

# Formats that not every Pillow reads: a module that does, and the package to install for it.
OPTIONAL = {
    ".heic": ("pillow_heif", "pillow-heif"),
    ".heif": ("pillow_heif", "pillow-heif"),
    ".avif": ("PIL._avif", "'pillow>=11.3'"),
}
UNSUPPORTED = {end: package for end, (name, package) in OPTIONAL.items() if not find_spec(name)}
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", *OPTIONAL))
EXTENSIONS -= UNSUPPORTED.keys()
ResizeMode = Literal["crop", "squash", "pad"]

EpsImagePlugin.gs_binary = False  # PostScript, under whatever name, would start Ghostscript
Image.MAX_IMAGE_PIXELS = None  # `decode` checks the header itself and names the file
if find_spec("pillow_heif"):
    import_module("pillow_heif").register_heif_opener()


def decode(path: str, channels: int, max_pixels: int, size: int | None = None) -> Image.Image:
    """Read an image file; see `convert`.

    Raises:
        InputError: naming the file, when it is missing, empty, damaged, too large or no image.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension in UNSUPPORTED:
        raise InputError(f"{path}: {explain_unsupported(extension)}")
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height <= max_pixels:
                return convert(image, channels, size)
    except FileNotFoundError:
        problem = "the file has vanished since the folder was read"
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error …
        problem = f"cannot be read as an image: {error}".replace(f" '{path}'", "")
        if os.path.getsize(path) == 0:
            problem = "the file is empty"
    else:
        problem = f"{width} x {height} pixels exceed data.max_pixels={max_pixels:,}"
        raise InputError(f"{path}: {problem}; raise it for real images, or remove the file")
    raise InputError(f"{path}: {problem}; repair or remove it, or set data.on_error=skip")


def explain_unsupported(extension: str) -> str:
    """What a format of `UNSUPPORTED` needs."""
    package = UNSUPPORTED[extension]
    return f"reading {extension[1:].upper()} needs {package}; install it: pip install {package}"


def size_of(path: str) -> tuple[int, int]:
    """The width and height of the image that `decode` makes of a file, from its header."""
    with Image.open(path) as image:
        rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if rotated else image.size


def convert(image: Image.Image, channels: int, size: int | None = None) -> Image.Image:
    """An opened image as 8-bit gray (1 channel) or RGB (3), rotated as its EXIF orientation says.

    Transparency is dropped, 16 bits are scaled to 8. With a size, a JPEG much larger than this is
    decoded at a reduced scale, which is faster.
    """
    mode = "L" if channels == 1 else "RGB"
    if size is not None:
        image.draft(mode, (2 * size, 2 * size))  # JPEG only; never below twice the size
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8))
    if image.mode == "P":  # a palette may contain transparency
        image = image.convert("RGBA")
    return image.convert(mode)


def make_square(
    image: Image.Image,
    size: int,
    resize_mode: ResizeMode,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    fill: int = 0,
) -> Image.Image:
    """The image at `size` x `size`: center-cropped, squashed, or padded with a fill value."""
    if resize_mode == "crop":
        return ImageOps.fit(image, (size, size), resample)
    if resize_mode == "pad":
        return ImageOps.pad(image, (size, size), resample, color=fill)
    return image.resize((size, size), resample)
