"""Decode image files of a request, with bounds on pixels and scans.

decoders.py calls this in processes that can be killed, since a crafted file can keep Pillow busy
for minutes. inputs.py calls it directly for small images.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from src.kindling.data.images.prepare import Preparation
from src.kindling.deploy.serving.decode import Decoded, Refusal
from src.kindling.deploy.serving.limits import Limits

Files = Sequence[tuple[str, bytes]]  # names and contents
Images = Sequence[tuple[str, Image.Image]]
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
PNG, JPEG = b"\x89PNG", b"\xff\xd8"
SIGNATURES = (PNG, JPEG, b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
SMALL_BYTES, SMALL_PIXELS = 1 << 15, 1 << 16
COMPRESSED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")  # of a PNG; each may expand a thousandfold
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each decodes the whole image again
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of JPEG segments; others have no length
START_OF_SCAN, END_OF_IMAGE, SEQUENTIAL_FRAMES = b"\xda", b"\xd9", (b"\xc0", b"\xc1", b"\xc9")


def decode_images(files: Files, prepare: Preparation, limits: Limits) -> Decoded:
    """Decode images as the model takes them, `(n, C, H, W)`.

    All headers are read, and the sizes checked, before the first pixel is decoded.

    Raises:
        Refusal: naming the file.
    """
    return _decode_all(_open_all(files, prepare, limits), prepare)


def decode_small_images(files: Files, prepare: Preparation, limits: Limits) -> Decoded | None:
    """`decode_images` for images that decode faster than they travel to another process; else None.

    Bytes, and chunks that expand, are bounded before Pillow reads them, and pixels before it
    decodes, so that even crafted files (thousands of EXIF entries, say) take at most some 50 ms.
    """
    if sum(len(content) for _, content in files) > SMALL_BYTES:
        return None
    for _, content in files:
        compressed = sum(map(content.count, COMPRESSED_CHUNKS))
        if not content.startswith((PNG, JPEG)) or (content.startswith(PNG) and compressed > 1):
            return None
    images = _open_all(files, prepare, limits)
    if sum(_peak_pixels(image, prepare) for _, image in images) > SMALL_PIXELS:
        return None
    return _decode_all(images, prepare)


def _open_all(files: Files, prepare: Preparation, limits: Limits) -> Images:
    maximum = max(limits.max_pixels, limits.max_total_pixels)
    images, total = [], 0
    for name, content in files:
        image = _open(name, content)
        size = f"{image.width} x {image.height} pixels"
        pixels, peak = image.width * image.height, _peak_pixels(image, prepare)
        if pixels > limits.max_pixels:
            raise Refusal(413, f"{name}: {size}; the maximum is {limits.max_pixels:,}")
        if peak > limits.max_pixels:
            size = f"{size} would be resized to {peak:,}"
            raise Refusal(413, f"{name}: {size}; the maximum is {limits.max_pixels:,}")
        if image.format in ("JPEG", "MPO") and has_more_scans(content, MAX_SCANS):
            reason = f"the JPEG has more than {MAX_SCANS} scans; save it as a baseline JPEG"
            raise Refusal(422, f"{name}: {reason}")
        total += pixels
        if total > maximum:
            reason = f"{total:,} pixels or more in one request; the maximum is {maximum:,}"
            raise Refusal(413, f"{reason}; send fewer images at once")
        images.append((name, image))
    return images


def _open(name: str, content: bytes) -> Image.Image:
    """Open an image and read only its header."""
    if not content:
        raise Refusal(422, f"{name}: is empty")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if content.startswith(SIGNATURES):
            raise Refusal(422, f"{name}: cannot be read: the file header is damaged") from None
        formats = ", ".join(FORMATS)
        raise Refusal(415, f"{name}: not an image; send one of {formats}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error …
        raise Refusal(422, f"{name}: cannot be read: {error}") from None


def _decode_all(images: Images, prepare: Preparation) -> Decoded:
    arrays, sizes = [], []
    for name, image in images:
        size = image.size
        try:
            arrays.append(prepare(image))
            rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        except Exception as error:  # as above
            raise Refusal(422, f"{name}: cannot be read: {error}") from None
        sizes.append(size[::-1] if rotated else size)
    if len({x.shape for x in arrays}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for (name, _), x in zip(images, arrays, strict=True))
        reason = f"different shapes after preparation: {shapes}; send one shape per request"
        raise Refusal(422, reason)
    return Decoded(np.stack(arrays), sizes=sizes)


def _peak_pixels(image: Image.Image, prepare: Preparation) -> int:
    """The most pixels that an image has at any step of its preparation.

    Resizing the shorter side makes a long and narrow image huge.
    """
    width, height = image.size
    peak = width * height if prepare.whole else max(width * height, prepare.size**2)
    for step in prepare.steps:
        if step["do"] == "resize":
            short, long = step["size"][0], step["size"][-1]
            if len(step["size"]) == 1:
                long = short * max(width, height) // min(width, height)
                long = min(long, step["longest"] or long)
            peak = max(peak, short * long)
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
