"""Split forms into files, and decode image files, with bounds on pixels, scans and texts.

decoders.py calls this in processes that can be killed: a crafted file can keep Pillow busy for
minutes. Refused files raise an HTTPException that names them.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from python_multipart.multipart import Field, File, parse_form
from starlette.exceptions import HTTPException

from src.kindling.data.images.prepare import Crop, Pad, Preparation, Resize
from src.kindling.deploy.serving.limits import Limits

Array = np.ndarray[Any, Any]
Files = Sequence[tuple[str, bytes]]  # names and contents
FIELDS = (b"file", b"files")  # of a form, whose content is a file in any case
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each decodes the whole image again
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of JPEG segments; others have no length
START_OF_SCAN, END_OF_IMAGE, SEQUENTIAL_FRAMES = b"\xda", b"\xd9", (b"\xc0", b"\xc1", b"\xc9")
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 20  # bytes of a PNG's texts, uncompressed; was 64 MB
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # about clients' forms


class Decoded(NamedTuple):
    """The decoded inputs of a request."""

    x: Array  # (n, *raw_shape)
    several: bool  # whether the response is a list
    notes: Sequence[str] = ()  # for the client
    sizes: Sequence[Sequence[int]] = ()  # width and height of each image as sent


def media_type(content_type: str) -> str:
    """Return a content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


class ImageDecoder:
    """Decodes an image, or the files of a form, as the model takes them, `(n, C, H, W)`."""

    def __init__(self, prepare: Preparation, limits: Limits) -> None:
        Image.init()  # loads the readers of all formats
        self.prepare, self.limits = prepare, limits

    def __call__(self, content_type: str, body: bytes, several: bool) -> Decoded:
        files = split_files(content_type, body, several, self.limits.max_rows)
        return decode_images(files, several, self.prepare, self.limits)


def split_files(content_type: str, body: bytes, several: bool, max_files: int) -> Files:
    """Split a form into the names and contents of its files; another body is one image."""
    kind = media_type(content_type)
    if kind in ("application/json", "text/plain", "text/html"):
        reason = f"this model takes images, not {kind}"
        raise HTTPException(415, f"{reason}; send the file's bytes, or a form with files")
    if kind != "multipart/form-data":
        if several:
            reason = "/predict/batch takes images as files of a form (multipart/form-data)"
            raise HTTPException(415, reason)
        return [("image", body)]
    files = _parse_form(content_type, body, max_files)
    if not files:
        raise HTTPException(422, "the form has no file")
    if not several and len(files) > 1:
        reason = f"the form has {len(files)} files; send several to /predict/batch"
        raise HTTPException(422, reason)
    return files


def _parse_form(content_type: str, body: bytes, max_files: int) -> Files:
    files: list[tuple[str, bytes]] = []

    def add(name: bytes | None, content: bytes) -> None:
        if len(files) == max_files:
            raise HTTPException(413, f"Too many files; the maximum is {max_files}")
        files.append(((name or b"image").decode("utf-8", "replace"), content))

    def add_file(file: File) -> None:
        file.file_object.seek(0)
        add(file.file_name, file.file_object.read())
        file.close()

    def add_field(field: Field) -> None:
        if field.field_name in FIELDS:  # a client that sends no file name
            add(None, field.value or b"")

    headers = {"Content-Type": content_type.encode("latin-1")}
    try:
        parse_form(headers, io.BytesIO(body), add_field, add_file)
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(422, f"the form cannot be read: {error}") from None
    return files


def decode_images(files: Files, several: bool, prepare: Preparation, limits: Limits) -> Decoded:
    """Decode images `(n, C, H, W)`; all headers are checked before the first pixel is decoded."""
    images, total = [], 0
    for name, content in files:
        image = _open(name, content)
        peak = peak_pixels(image.size, prepare)
        if peak > limits.max_pixels:
            size = f"{image.width} x {image.height} pixels"
            if image.width * image.height < peak:
                size = f"{size} would be resized to {peak:,}"
            raise HTTPException(413, f"{name}: {size}; the maximum is {limits.max_pixels:,}")
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
        width, height = image.size
        try:
            arrays.append(prepare(image))
            rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            image.close()  # its pixels
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error …
            raise HTTPException(422, f"{name}: cannot be read: {error}") from None
        sizes.append((height, width) if rotated else (width, height))
    shapes = {x.shape for x in arrays}
    if len(shapes) > 1:
        reason = f"different shapes after preparation: {shapes}; send one shape per request"
        raise HTTPException(422, reason)
    return Decoded(np.stack(arrays), several, sizes=sizes)


def _open(name: str, content: bytes) -> Image.Image:
    """Open an image and read only its header."""
    if not content:
        raise HTTPException(422, f"{name}: is empty")
    status, reason = 422, "cannot be read: the file header is damaged"
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if not content.startswith(SIGNATURES):
            status, reason = 415, f"not an image; send one of {', '.join(FORMATS)}"
    except Exception as error:  # as above
        reason = f"cannot be read: {error}"
    raise HTTPException(status, f"{name}: {reason}")


def peak_pixels(size: Sequence[int], prepare: Preparation) -> int:
    """Compute the most pixels that an image of this width and height has in its preparation."""
    width, height = size
    peak = width * height
    if not prepare.whole:
        width = height = prepare.size
    for step in (None, *prepare.steps):
        if isinstance(step, Resize):
            rows, columns = step.size[0], step.size[-1]
            if len(step.size) == 1:
                long = rows * max(width, height) // min(width, height)
                long = min(long, step.longest or long)
                rows, columns = (rows, long) if width > height else (long, rows)
            width, height = columns, rows
        elif isinstance(step, Pad):
            left, top, right, bottom = step.border
            width, height = width + left + right, height + top + bottom
        elif isinstance(step, Crop):  # which pads first
            rows, columns = step.size
            peak = max(peak, max(width, columns) * max(height, rows))
            width, height = columns, rows
        peak = max(peak, width * height)
    return peak


def has_more_scans(content: bytes, maximum: int) -> bool:
    """Return whether a JPEG has more scans than `maximum`, without those of its thumbnail."""
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
