"""From a request to what the model takes: pictures as bytes or files of a form, rows as JSON. What is wrong is refused.

src/serving/app.py calls this for each prediction.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, NoReturn

import numpy as np
from fastapi import Request
from PIL import ExifTags, Image, UnidentifiedImageError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from src.data.encode_frame import encode_frame, unseen_in
from src.errors import InputError
from src.serving.limits import Limits
from src.serving.model import Array, Model

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
SMALL = 1 << 16  # pixels that take less time to decode than to hand to a thread
HELD = 8  # largest bodies that are held at once
CLOSE = {"connection": "close"}


def refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> NoReturn:
    raise HTTPException(status, reason, headers)


class Asked(NamedTuple):
    """What a request asks for."""

    x: Array  # (n, *raw_shape)
    several: bool  # whether they came as several, and are answered so
    notes: Sequence[str] = ()  # what the client should be told
    sizes: Sequence[tuple[int, int]] = ()  # of the pictures, as they were sent: width and height


class Inputs:
    """Reads requests.

    Args:
        model: says what it takes.
        limits: what a request may take.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits, self.most = model, limits, int(limits.max_body * 1e6)
        self.held = 0  # bytes of bodies
        self.decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")

    async def __call__(self, request: Request, several: bool) -> Asked:
        """The inputs of a request.

        Raises:
            HTTPException: with the status and the reason, where it is refused.
        """
        body = bytearray()
        try:
            await self._receive(request, body)
            if self.model.prepare is None:
                return self._rows(request, body, several)
            return await self._pictures(request, bytes(body), several)
        except TimeoutError:
            refuse(408, f"the body did not come within {self.limits.patience:g} s", CLOSE)
        finally:
            self.held -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Fill the body; one that is too large is read on for a while, since few clients listen while they send."""
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() and int(declared) > 4 * self.most else 0
        async with asyncio.timeout(self.limits.patience):
            more = not size
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    refuse(400, "the connection was closed before the body was there")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= self.most:
                    body += chunk
                    self.held += len(chunk)
                if self.held > HELD * self.most:
                    refuse(429, "too much is under way; try again later", {"retry-after": "1"} | CLOSE)
                more = message.get("more_body", False) and size <= 4 * self.most
        if size > self.most:
            refuse(413, f"the body has {size:,} bytes or more; at most {self.most:,} are taken", CLOSE)

    # -----------------------------------------------------------------------------------------------------------
    # Pictures

    async def _pictures(self, request: Request, body: bytes, several: bool) -> Asked:
        kind = _kind(request)
        if kind in ("application/json", "text/plain", "text/html"):
            refuse(415, f"this model takes pictures, not {kind}; send the file's bytes, or a form with files")
        if kind != "multipart/form-data":
            if several:
                refuse(415, "/predict/batch takes pictures as files of a form (multipart/form-data)")
            x, size = await self._prepared("the picture", body)
            return Asked(x[None], False, sizes=[size])
        files = await self._files(request, body)
        if not files:
            refuse(422, "the form holds no file")
        if not several and len(files) > 1:
            refuse(422, f"the form holds {len(files)} files; /predict/batch takes several")
        found = [await self._prepared(name or "the picture", content) for name, content in files]
        return Asked(np.stack([x for x, _ in found]), several, sizes=[size for _, size in found])

    async def _files(self, request: Request, body: bytes) -> Sequence[tuple[str | None, bytes]]:
        async def once() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        most = self.limits.max_rows
        try:
            async with Request(request.scope, once).form(max_files=most, max_fields=most) as form:
                files = [value for _, value in form.multi_items() if not isinstance(value, str)]
                return [(file.filename, await file.read()) for file in files]
        except MultiPartException as error:
            refuse(413 if "Too many" in error.message else 422, f"the form cannot be read: {error.message}")

    async def _prepared(self, name: str, content: bytes) -> tuple[Array, tuple[int, int]]:
        """A picture as the model takes it, `(C, H, W)`, and the width and height that it is seen at."""
        prepare, most = self.model.prepare, self.limits.max_pixels
        assert prepare is not None
        if not content:
            refuse(422, f"{name}: is empty")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels, size = image.width * image.height, image.size
                if pixels > most:
                    refuse(413, f"{name}: {image.width} x {image.height} pixels; at most {most:,} are taken")
                there = asyncio.get_running_loop()
                x = prepare(image) if pixels <= SMALL else await there.run_in_executor(self.decoders, prepare, image)
                if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # it is turned by a quarter
                    size = size[::-1]
        except HTTPException:
            raise
        except UnidentifiedImageError:
            if content.startswith(BEGINNINGS):
                refuse(422, f"{name}: cannot be read: its beginning is damaged")
            refuse(415, f"{name}: is no picture that can be read ({', '.join(FORMATS)})")
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            refuse(422, f"{name}: cannot be read: {error}")
        if x.shape != self.model.shape:
            refuse(422, f"{name}: comes to {x.shape}, and the model takes {self.model.shape}")
        return x.astype(self.model.type, copy=False), size

    # -----------------------------------------------------------------------------------------------------------
    # Rows

    def _rows(self, request: Request, body: bytearray, several: bool) -> Asked:
        """The rows as the model takes them, `(rows, columns)`; several where they came as a list."""
        import pandas as pd

        notes: list[str] = []
        kind = _kind(request) or "application/json"
        if kind not in ("application/json", "application/x-www-form-urlencoded"):  # the second is what curl says
            refuse(415, f"this model takes rows as JSON (application/json), not {kind}")
        try:
            given = json.loads(body, parse_constant=_no_constant)
        except RecursionError:
            refuse(422, "the JSON is nested too deeply")
        except ValueError as error:
            refuse(422, f"the body is no JSON: {error}")
        rows = given if isinstance(given, list) else [given]
        if several and not isinstance(given, list):
            refuse(422, "/predict/batch takes a list of rows")
        if not rows or not all(isinstance(row, dict) for row in rows):
            refuse(422, "a row is an object of columns and values, several are a list of such")
        if len(rows) > self.limits.max_rows:
            refuse(413, f"{len(rows):,} rows in one request; at most {self.limits.max_rows:,} are taken")
        names = dict.fromkeys(name for row in rows for name in row)
        for number, row in enumerate(rows, 1):
            if lacking := next((name for name in names if name not in row), None):
                refuse(422, f"row {number} lacks the column '{lacking}' that others have; null is a missing value")
            if nested := next((name for name, value in row.items() if isinstance(value, list | dict)), None):
                refuse(422, f"column '{nested}' (row {number}): a number, a text, true, false or null is expected")
        frame = pd.DataFrame({name: pd.Series([row[name] for row in rows]) for name in names})
        try:
            with np.errstate(all="ignore"):
                x = encode_frame(frame, self.model.spec.columns, notes)
        except (InputError, OverflowError) as error:
            refuse(422, str(error))
        for name, (_, example) in unseen_in(frame, x, self.model.spec.columns).items():
            notes.append(f"{name}: the training did not have {example!r}")
        return Asked(x, isinstance(given, list), notes)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; null stands for a missing value")
