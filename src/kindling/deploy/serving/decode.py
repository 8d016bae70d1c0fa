"""Decode image files to the model's input, with bounds on pixels, scans and texts.

decoders.py calls this in processes that can be killed: a crafted file can keep Pillow busy for
minutes. What is refused raises an HTTPException that names the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from starlette.exceptions import HTTPException

from src.kindling.data.images.prepare import Preparation
from src.kindling.deploy.serving.forms import Files
from src.kindling.deploy.serving.limits import Limits

Array = np.ndarray[Any, Any]
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each decodes the whole image again
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of JPEG segments; others have no length
START_OF_SCAN, END_OF_IMAGE, SEQUENTIAL_FRAMES = b"\xda", b"\xd9", (b"\xc0", b"\xc1", b"\xc9")
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20  # bytes of a PNG's texts, uncompressed; was 64 MB


class Decoded(NamedTuple):
    """The decoded inputs of a request."""

    x: Array  # (n, *raw_shape)
    several: bool  # whether the response is a list
    notes: Sequence[str] = ()  # for the client
    sizes: Sequence[Sequence[int]] = ()  # width and height of each image as sent


def decode_images(files: Files, several: bool, prepare: Preparation, limits: Limits) -> Decoded:
    """Decode images as the model takes them, `(n, C, H, W)`.

    All headers are read, and the sizes checked, before the first pixel is decoded.
    """
    images, total = [], 0
    for name, content in files:
        image = _open(name, content)
        peak = peak_pixels(image.size, prepare)
        _check_size(name, image, peak, limits)
        if image.format in ("JPEG", "MPO") and has_more_scans(content, MAX_SCANS):
            reason = f"the JPEG has more than {MAX_SCANS} scans; save it as a baseline JPEG"
            raise HTTPException(422, f"{name}: {reason}")
        images.append((name, image))
        total += peak
    maximum = max(limits.max_pixels, limits.max_total_pixels)
    if total > maximum:
        reason = f"{total:,} pixels in one request; the maximum is {maximum:,}"
        raise HTTPException(413, f"{reason}; send fewer images at once")
    arrays, sizes = [], []
    for name, image in images:
        size = image.size
        try:
            arrays.append(prepare(image))
            rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            image.close()  # its pixels
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error …
            raise HTTPException(422, f"{name}: cannot be read: {error}") from None
        sizes.append(size[::-1] if rotated else size)
    shapes = {x.shape for x in arrays}
    if len(shapes) > 1:
        reason = f"different shapes after preparation: {shapes}; send one shape per request"
        raise HTTPException(422, reason)
    return Decoded(np.stack(arrays), several, sizes=sizes)


def _open(name: str, content: bytes) -> Image.Image:
    """Open an image and read only its header."""
    status, reason = 422, "cannot be read: the file header is damaged"
    if not content:
        raise HTTPException(status, f"{name}: is empty")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if not content.startswith(SIGNATURES):
            status, reason = 415, f"not an image; send one of {', '.join(FORMATS)}"
    except Exception as error:  # as above
        reason = f"cannot be read: {error}"
    raise HTTPException(status, f"{name}: {reason}")


def _check_size(name: str, image: Image.Image, peak: int, limits: Limits) -> None:
    if peak > limits.max_pixels:
        size = f"{image.width} x {image.height} pixels"
        if image.width * image.height < peak:
            size = f"{size} would be resized to {peak:,}"
        raise HTTPException(413, f"{name}: {size}; the maximum is {limits.max_pixels:,}")


def peak_pixels(size: Sequence[int], prepare: Preparation) -> int:
    """The most pixels that an image of this width and height has at any step of its preparation.

    Resizing the shorter side makes a long and narrow image huge.
    """
    width, height = size
    peak = width * height
    if not prepare.whole:
        width = height = prepare.size
    for step in ({"do": "square"}, *prepare.steps):
        if step["do"] == "resize":
            rows, columns = step["size"][0], step["size"][-1]
            if len(step["size"]) == 1:
                long = rows * max(width, height) // min(width, height)
                long = min(long, step["longest"] or long)
                rows, columns = (rows, long) if width > height else (long, rows)
            width, height = columns, rows
        elif step["do"] == "pad":
            left, top, right, bottom = step["border"]
            width, height = width + left + right, height + top + bottom
        elif step["do"] == "crop":  # which pads first
            rows, columns = step["size"]
            peak = max(peak, max(width, columns) * max(height, rows))
            width, height = columns, rows
        peak = max(peak, width * height)
    return peak


def has_more_scans(content: bytes, maximum: int) -> bool:
    """Whether a JPEG has more scans than `maximum`, by one pass over its segments.

    A start of scan in a segment's payload (a thumbnail) or after the image's end does not count.
    """
    position, scans, components = 2, 0, b""
    while (found := MARKER.search(content, position)) and found[1] != END_OF_IMAGE:
        start = found.end()
        if found[1] in SEQUENTIAL_FRAMES:
            components = content[start + 7 : start + 8]
        if found[1] == START_OF_SCAN:
            # Decoders read no second scan where the first one holds all components.
            if components and content[start + 2 : start + 3] == components:
                return False
            scans += 1
            if scans > maximum:
                return True
        position = start + max(int.from_bytes(content[start : start + 2], "big"), 2)
    return False
