"""Decode image files or JSON rows to the model's input, with bounds on pixels, scans and columns.

decoders.py calls this in processes that can be killed: a crafted file can keep Pillow busy for
minutes. What is refused raises an HTTPException that names the file, or the row and the column.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from src.kindling.config.errors import InputError
from src.kindling.data.images.prepare import Preparation
from src.kindling.data.spec import Column
from src.kindling.deploy.serving.forms import Files
from src.kindling.deploy.serving.limits import Limits

Array = np.ndarray[Any, Any]
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each decodes the whole image again
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of JPEG segments; others have no length
START_OF_SCAN, END_OF_IMAGE, SEQUENTIAL_FRAMES = b"\xda", b"\xd9", (b"\xc0", b"\xc1", b"\xc9")
MAX_UNKNOWN = 100  # columns of a row that the training data did not have
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


def decode_rows(body: bytes, several: bool, columns: Sequence[Column], limits: Limits) -> Decoded:
    """Decode JSON as the model takes it, `(rows, columns)`."""
    import pandas as pd

    from src.kindling.data.tables.encode import encode_frame, unseen_in

    try:
        given = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        remedy = "send UTF-8 text, and null for NaN or a missing value"
        raise HTTPException(422, f"the body is not valid JSON: {error}; {remedy}") from None
    if several and not isinstance(given, list):
        raise HTTPException(422, "/predict/batch takes a list of rows")
    rows = given if isinstance(given, list) else [given]
    _check_rows(rows, len(columns), limits.max_rows)
    known = {column.name for column in columns}
    # Unknown columns are needed only by name, for a note or as a hint at a wrong name.
    values = {
        name: pd.Series([row[name] for row in rows]) if name in known else None for name in rows[0]
    }
    frame = pd.DataFrame(values, index=range(len(rows)))
    notes: list[str] = []
    try:
        with np.errstate(all="ignore"):
            x = encode_frame(frame, columns, notes)
    except (InputError, OverflowError) as error:
        raise HTTPException(422, str(error)) from None
    for name, (_, example) in unseen_in(frame, x, columns).items():
        notes.append(f"{name}: the training data did not have {example!r}")
    return Decoded(x, isinstance(given, list), notes)


def _check_rows(rows: list[Any], num_columns: int, max_rows: int) -> None:
    """Check the number of rows and columns, that all rows have the same columns, and the cells."""
    if len(rows) > max_rows:
        raise HTTPException(413, f"{len(rows):,} rows in one request; the maximum is {max_rows:,}")
    if not rows or not all(isinstance(row, dict) for row in rows):
        reason = "expected a row as an object of columns and values, or a list of rows"
        raise HTTPException(422, reason)
    names = rows[0].keys()
    if len(names) > num_columns + MAX_UNKNOWN:
        reason = f"row 1 has {len(names):,} columns; the training data had {num_columns:,}"
        raise HTTPException(413, f"{reason}, and the maximum is {MAX_UNKNOWN} more")
    for number, row in enumerate(rows, 1):
        if row.keys() != names:
            name = next(iter(names ^ row.keys()))
            reason = f"column '{name}' is in only one of row 1 and row {number}"
            raise HTTPException(422, f"{reason}; send null for a missing value")
        for name, value in row.items():
            if isinstance(value, list | dict):
                reason = "expected a number, a text, true, false or null"
                raise HTTPException(422, f"column '{name}' (row {number}): {reason}")
