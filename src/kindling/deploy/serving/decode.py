"""From the bytes of a request to what the model takes: image files and JSON rows.

src/serving/decoders.py calls this in processes that can be killed, since a crafted file can keep
Pillow or the JSON parser busy for minutes. src/serving/inputs.py calls it directly for small inputs.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from src.kindling.config.errors import InputError
from src.kindling.data.images.prepare import Preparation
from src.kindling.data.spec import Column
from src.kindling.deploy.serving.limits import Limits

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
Files = Sequence[tuple[str, bytes]]  # names and contents
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
PNG, JPEG = b"\x89PNG", b"\xff\xd8"
BEGINNINGS = (PNG, JPEG, b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
SMALL_BYTES, SMALL_PIXELS = 1 << 15, 1 << 16
PACKED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")  # of a PNG; each may expand a thousandfold
MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each decodes the whole image again
MAX_UNKNOWN = 100  # columns of a row that the training did not have
MAX_LINE = 1000  # characters of a reason or a note
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")  # of JPEG segments; the others have no length
START_OF_SCAN, END_OF_IMAGE, SEQUENTIAL_FRAMES = b"\xda", b"\xd9", (b"\xc0", b"\xc1", b"\xc9")
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a pair, or the whole of one


def shorten(line: str) -> str:
    """A line that may hold what a client sent, at a length that can be read."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: one line for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, shorten(reason)


class Decoded(NamedTuple):
    """What a request asks for."""

    x: Array  # (n, *raw_shape)
    several: bool  # whether they came as several, and are answered so
    notes: Sequence[str] = ()  # for the client
    sizes: Sequence[tuple[int, int]] = ()  # of the pictures, as they were sent: width and height


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def decode_images(files: Files, several: bool, prepare: Preparation, limits: Limits) -> Decoded:
    """The pictures as the model takes them, `(n, C, H, W)`.

    All headers are read, and the sizes checked, before the first pixel is decoded.

    Args:
        files: names for messages, and contents.
        several: passed on to the answer.
        prepare: what the export says of the preparation.
        limits: of pixels.

    Raises:
        Refusal: naming the file.
    """
    return _decode_all(files, _open_all(files, limits), several, prepare, limits)


def decode_small_images(files: Files, several: bool, prepare: Preparation, limits: Limits) -> Decoded | None:
    """`decode_images` for what takes longer to hand to another process than to decode; else None.

    Bytes, and chunks that expand, are bounded before Pillow sees them, and pixels before it decodes, so
    that even crafted files (thousands of EXIF entries, say) take no more than some 50 ms.
    """
    if sum(len(content) for _, content in files) > SMALL_BYTES:
        return None
    for _, content in files:
        if not content.startswith((PNG, JPEG)):
            return None
        if content.startswith(PNG) and sum(map(content.count, PACKED_CHUNKS)) > 1:
            return None
    images = _open_all(files, limits)
    if sum(_most_pixels(image, prepare) for image in images) > SMALL_PIXELS:
        return None
    return _decode_all(files, images, several, prepare, limits)


def _open_all(files: Files, limits: Limits) -> list[Image.Image]:
    most = max(limits.max_pixels, limits.max_total_pixels)
    images, total = [], 0
    for name, content in files:
        image = _open(name, content, limits.max_pixels)
        total += image.width * image.height
        if total > most:
            reason = f"{total:,} pixels or more in one request; at most {most:,} are taken"
            raise Refusal(413, f"{reason}, so send fewer pictures at once")
        images.append(image)
    return images


def _decode_all(
    files: Files, images: Sequence[Image.Image], several: bool, prepare: Preparation, limits: Limits
) -> Decoded:
    for (name, _), image in zip(files, images, strict=True):
        if (pixels := _most_pixels(image, prepare)) > limits.max_pixels:
            reason = f"{image.width} x {image.height} pixels would be resized to {pixels:,}"
            raise Refusal(413, f"{name}: {reason}; at most {limits.max_pixels:,} are taken")
    found = [_decode(name, image, prepare) for (name, _), image in zip(files, images, strict=True)]
    if len({x.shape for x, _ in found}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for (name, _), (x, _) in zip(files, found, strict=True))
        raise Refusal(422, f"different shapes after preparation: {shapes}; send one shape per request")
    x = np.stack([x for x, _ in found]) if len(found) > 1 else found[0][0][None]
    return Decoded(x, several, sizes=[size for _, size in found])


def _open(name: str, content: bytes, max_pixels: int) -> Image.Image:
    """An image of which only the header was read."""
    if not content:
        raise Refusal(422, f"{name}: is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if content.startswith(BEGINNINGS):
            raise Refusal(422, f"{name}: cannot be read: its beginning is damaged") from None
        raise Refusal(415, f"{name}: is no picture that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise Refusal(422, f"{name}: cannot be read: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise Refusal(413, f"{name}: {width} x {height} pixels; at most {max_pixels:,} are taken")
    if image.format in ("JPEG", "MPO") and has_more_scans(content, MAX_SCANS):
        raise Refusal(422, f"{name}: the JPEG has more than {MAX_SCANS} scans; save it as a baseline JPEG")
    return image


def _decode(name: str, image: Image.Image, prepare: Preparation) -> tuple[Array, tuple[int, int]]:
    """A picture as the model takes it, `(C, H, W)`, and the width and height that it is seen at."""
    size = image.size
    try:
        x = prepare(image)
        if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # it is turned by a quarter
            size = size[::-1]
    except Exception as error:  # as above
        raise Refusal(422, f"{name}: cannot be read: {error}") from None
    return x, size


def _most_pixels(image: Image.Image, prepare: Preparation) -> int:
    """The pixels of the largest form that the preparation gives an image.

    A resize of the shorter side makes a long and narrow image huge.
    """
    width, height = image.size
    most = width * height if prepare.whole else max(width * height, prepare.size**2)
    for step in prepare.steps:
        if step["do"] == "resize":
            short, long = step["size"][0], step["size"][-1]
            if len(step["size"]) == 1:
                long = short * max(width, height) // min(width, height)
                long = min(long, step["longest"] or long)
            most = max(most, short * long)
    return most


def has_more_scans(content: bytes, most: int) -> bool:
    """Whether a JPEG has more scans than `most`, by one pass over its segments.

    A start of scan in a segment's payload (a thumbnail) or after the image's end does not count.
    """
    place, scans, components = 2, 0, b""
    while (found := MARKER.search(content, place)) and found[1] != END_OF_IMAGE:
        start = found.end()
        if found[1] in SEQUENTIAL_FRAMES:
            components = content[start + 7 : start + 8]
        if found[1] == START_OF_SCAN:
            # A decoder takes no second scan where the first one held everything, so the rest needs no look.
            if components and content[start + 2 : start + 3] == components:
                return False
            scans += 1
            if scans > most:
                return True
        place = start + max(int.from_bytes(content[start : start + 2], "big"), 2)
    return False


# ---------------------------------------------------------------------------------------------------------------
# Rows


def decode_rows(body: bytes | bytearray, several: bool, columns: Sequence[Column], limits: Limits) -> Decoded:
    """The rows as the model takes them, `(rows, columns)`.

    Args:
        body: JSON.
        several: whether a list is required.
        columns: of the training.
        limits: of rows.

    Raises:
        Refusal: naming the row and the column.
    """
    import pandas as pd

    from src.kindling.data.tables.encode import encode_frame, unseen_in

    try:
        text = body.decode(json.detect_encoding(body))  # json.loads would let surrogates pass
        given = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(422, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise Refusal(422, f"the body is no JSON: {error}") from None
    if several and not isinstance(given, list):
        raise Refusal(422, "/predict/batch takes a list of rows")
    rows = given if isinstance(given, list) else [given]
    known = {column.name for column in columns}
    names = _names(rows, known, limits.max_rows)
    if SURROGATE_ESCAPE.search(text):
        _check_surrogates(rows)
    _check_cells(rows, names)
    # Of unknown columns the name is enough, for a note or as a hint at a wrong name.
    values = {name: pd.Series([row[name] for row in rows]) if name in known else None for name in names}
    frame = pd.DataFrame(values, index=range(len(rows)))
    notes: list[str] = []
    try:
        with np.errstate(all="ignore"):
            x = encode_frame(frame, columns, notes)
    except (InputError, OverflowError) as error:
        raise Refusal(422, str(error)) from None
    for name, (_, example) in unseen_in(frame, x, columns).items():
        notes.append(f"{name}: the training did not have {example!r}")
    return Decoded(x, isinstance(given, list), [shorten(note) for note in notes])


def _names(rows: list[Any], known: set[str], max_rows: int) -> Iterable[str]:
    """The names of all columns, in order; too many rows or columns are refused before any use."""
    if len(rows) > max_rows:
        raise Refusal(413, f"{len(rows):,} rows in one request; at most {max_rows:,} are taken")
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise Refusal(422, "a row is an object of columns and values, several are a list of such")
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if len(row) <= len(known) + MAX_UNKNOWN:
            names |= dict.fromkeys(row)
        if max(len(row), len(names)) > len(known) + MAX_UNKNOWN:
            count = max(len(row), len(names))
            others = f"and at most {MAX_UNKNOWN} others are taken"
            raise Refusal(413, f"row {number}: {count:,} columns; the training had {len(known):,}, {others}")
    return names


def _check_cells(rows: list[Row], names: Iterable[str]) -> None:
    for number, row in enumerate(rows, 1):
        if lacking := next((name for name in names if name not in row), None):
            raise Refusal(422, f"row {number} lacks the column '{lacking}' that others have; null is a missing value")
        if nested := next((name for name, value in row.items() if isinstance(value, list | dict)), None):
            raise Refusal(422, f"column '{nested}' (row {number}): a number, a text, true, false or null is expected")


def _check_surrogates(rows: list[Row]) -> None:
    """Refuse half of a surrogate pair, which cannot be encoded as UTF-8."""
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            for text, what in ((name, "the name"), (value, "the text")):
                try:
                    if isinstance(text, str):
                        text.encode()
                except UnicodeEncodeError as error:
                    escape = f"\\u{ord(text[error.start]):04x}"
                    column = name.encode(errors="backslashreplace").decode()
                    reason = f"{what} has half of a surrogate pair, {escape}; send the whole character"
                    raise Refusal(422, f"column '{column}' (row {number}): {reason}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON; send null for a missing value")
