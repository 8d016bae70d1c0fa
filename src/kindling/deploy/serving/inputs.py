"""From a request to what the model takes: pictures as bytes or files of a form, rows as JSON. What is wrong is refused.

src/serving/app.py calls this for each prediction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from src.kindling.deploy.serving.decode import Decoded, Refusal, decode_rows, decode_small_images
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

# Of names in forms; the codecs of Python are more, and some fail or make half characters.
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
# Rows that take less time to decode than to hand to another process.
FEW_BYTES, FEW_COLUMNS = 1 << 14, 64
# More than the cores of a small machine: one decodes while another's result is on its way. Rows rarely need any.
IMAGE_DECODERS, ROW_DECODERS = 3, 1
HELD = 8  # largest bodies that are held at once
CLOSE = {"connection": "close"}


def refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> NoReturn:
    raise HTTPException(status, reason, headers)


class Inputs:
    """Reads requests.

    Args:
        model: says what it takes.
        limits: what a request may take.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits, self.most = model, limits, int(limits.max_body * 1e6)
        self.held = 0  # bytes of bodies
        self.decoders = Decoders(IMAGE_DECODERS if model.prepare else ROW_DECODERS, limits)

    async def __call__(self, request: Request, several: bool) -> Decoded:
        """The inputs of a request.

        Raises:
            HTTPException: with the status and the reason, where it is refused.
        """
        body = bytearray()
        try:
            await self._receive(request, body)
            if self.model.prepare is None:
                return await self._rows(request, body, several)
            return await self._pictures(request, bytes(body), several)
        except Refusal as refusal:
            again = {"retry-after": "1"} if refusal.status in (429, 503) else None
            refuse(refusal.status, refusal.reason, again)
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

    async def _pictures(self, request: Request, body: bytes, several: bool) -> Decoded:
        kind = _kind(request)
        if kind in ("application/json", "text/plain", "text/html"):
            refuse(415, f"this model takes pictures, not {kind}; send the file's bytes, or a form with files")
        if kind != "multipart/form-data":
            if several:
                refuse(415, "/predict/batch takes pictures as files of a form (multipart/form-data)")
            files: Sequence[tuple[str, bytes]] = [("the picture", body)]
        else:
            files = await self._files(request, body)
        if not files:
            refuse(422, "the form holds no file")
        if not several and len(files) > 1:
            refuse(422, f"the form holds {len(files)} files; /predict/batch takes several")
        assert self.model.prepare is not None
        decoded = decode_small_images(files, several, self.model.prepare, self.limits)
        if decoded is None:
            lengths = [(name, len(content)) for name, content in files]
            contents = [content for _, content in files]
            decoded = await self.decoders({"files": lengths, "several": several}, *contents)
        if decoded.x.shape[1:] != self.model.shape:
            refuse(422, f"the pictures come to {decoded.x.shape[1:]}, and the model takes {self.model.shape}")
        return decoded._replace(x=decoded.x.astype(self.model.type, copy=False))

    async def _files(self, request: Request, body: bytes) -> Sequence[tuple[str, bytes]]:
        async def once() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        most = self.limits.max_rows
        charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in CHARSETS:
            reason = f"charset {charset[:40]!r}; send names as UTF-8, without a charset"
            refuse(422, f"the form cannot be read: {reason}")
        try:
            async with Request(request.scope, once).form(max_files=most, max_fields=most) as form:
                files = [value for _, value in form.multi_items() if not isinstance(value, str)]
                return [(file.filename or "the picture", await file.read()) for file in files]
        except MultiPartException as error:
            refuse(413 if "Too many" in error.message else 422, f"the form cannot be read: {error.message}")

    # -----------------------------------------------------------------------------------------------------------
    # Rows

    async def _rows(self, request: Request, body: bytearray, several: bool) -> Decoded:
        kind = _kind(request) or "application/json"
        if kind not in ("application/json", "application/x-www-form-urlencoded"):  # the second is what curl says
            refuse(415, f"this model takes rows as JSON (application/json), not {kind}")
        columns = self.model.spec.columns
        if len(body) <= FEW_BYTES and len(columns) <= FEW_COLUMNS:
            return decode_rows(body, several, columns, self.limits)
        return await self.decoders({"several": several}, bytes(body))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
