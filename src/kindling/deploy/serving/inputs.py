"""Read a request: images as bytes or files of a form, rows as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from src.kindling.deploy.serving.decode import Decoded, Refusal
from src.kindling.deploy.serving.decode_images import decode_small_images
from src.kindling.deploy.serving.decode_rows import decode_rows
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

# Of file names in forms; some of Python's other codecs fail, or make half characters.
CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
# Rows that decode faster than they travel to another process.
SMALL_BYTES, SMALL_COLUMNS = 1 << 14, 64
# More than the cores of a small machine: one decodes while another's result is on its way.
IMAGE_DECODERS, ROW_DECODERS = 3, 1
MAX_BODIES = 8  # largest bodies that are in memory at once


class Inputs:
    """Reads requests.

    Args:
        model: the model that takes the inputs.
        limits: of a request.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits, self.max_bytes = model, limits, int(limits.max_body * 1e6)
        self.bytes_in_memory = 0
        count = IMAGE_DECODERS if model.prepare else ROW_DECODERS
        self.decoders = Decoders(count, model.metadata, limits)

    async def read(self, request: Request, several: bool) -> Decoded:
        """The decoded inputs of a request.

        Raises:
            Refusal: with the status and the reason.
        """
        body = bytearray()
        try:
            await self._receive(request, body)
            if self.model.prepare is None:
                return await self._decode_rows(request, body, several)
            return await self._decode_images(request, bytes(body), several)
        except TimeoutError:
            reason = f"no complete body within {self.limits.patience:g} s"
            raise Refusal(408, reason, close=True) from None
        finally:
            self.bytes_in_memory -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Fill the body. Read on a little after the limit: few clients listen while they send."""
        read_limit = 4 * self.max_bytes
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() and int(declared) > read_limit else 0
        async with asyncio.timeout(self.limits.patience):
            more = not size
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "connection closed before the end of the body", close=True)
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= self.max_bytes:
                    body += chunk
                    self.bytes_in_memory += len(chunk)
                if self.bytes_in_memory > MAX_BODIES * self.max_bytes:
                    raise Refusal(429, "too many large requests; try again later", close=True)
                more = message.get("more_body", False) and size <= read_limit
        if size > self.max_bytes:
            reason = f"the body has {size:,} bytes or more; the maximum is {self.max_bytes:,}"
            raise Refusal(413, reason, close=True)

    async def _decode_rows(self, request: Request, body: bytearray, several: bool) -> Decoded:
        kind = _content_type(request) or "application/json"
        # The second is curl's default.
        if kind not in ("application/json", "application/x-www-form-urlencoded"):
            raise Refusal(415, f"this model takes rows as JSON (application/json), not {kind}")
        columns = self.model.spec.columns
        if len(body) <= SMALL_BYTES and len(columns) <= SMALL_COLUMNS:
            return decode_rows(body, several, columns, self.limits)
        return await self.decoders.decode({"several": several}, bytes(body))

    async def _decode_images(self, request: Request, body: bytes, several: bool) -> Decoded:
        files = await self._split_files(request, body, several)
        assert self.model.prepare is not None
        decoded = decode_small_images(files, self.model.prepare, self.limits)
        if decoded is None:
            header = {"files": [(name, len(content)) for name, content in files]}
            decoded = await self.decoders.decode(header, *[content for _, content in files])
        shape = decoded.x.shape[1:]
        if shape != self.model.shape:
            reason = f"prepared images have the shape {shape}; the model takes {self.model.shape}"
            raise Refusal(422, reason)
        return decoded._replace(x=decoded.x.astype(self.model.dtype, copy=False), several=several)

    async def _split_files(
        self, request: Request, body: bytes, several: bool
    ) -> Sequence[tuple[str, bytes]]:
        """The names and contents of a request's files."""
        kind = _content_type(request)
        if kind in ("application/json", "text/plain", "text/html"):
            remedy = "send the file's bytes, or a form with files"
            raise Refusal(415, f"this model takes images, not {kind}; {remedy}")
        if kind != "multipart/form-data":
            if several:
                reason = "/predict/batch takes images as files of a form (multipart/form-data)"
                raise Refusal(415, reason)
            return [("image", body)]
        files = await self._parse_form(request, body)
        if not files:
            raise Refusal(422, "the form has no file")
        if not several and len(files) > 1:
            reason = f"the form has {len(files)} files; send several to /predict/batch"
            raise Refusal(422, reason)
        return files

    async def _parse_form(self, request: Request, body: bytes) -> Sequence[tuple[str, bytes]]:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        maximum = self.limits.max_rows
        options = parse_options_header(request.headers["content-type"])[1]
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in CHARSETS:
            reason = f"charset {charset[:40]!r}; send names as UTF-8, without a charset"
            raise Refusal(422, f"the form cannot be read: {reason}")
        scope = {"type": "http", "headers": request.scope["headers"]}
        form = Request(scope, receive).form(max_files=maximum, max_fields=maximum)
        try:
            async with form as fields:
                files = [value for _, value in fields.multi_items() if not isinstance(value, str)]
                return [(file.filename or "image", await file.read()) for file in files]
        except MultiPartException as error:
            status = 413 if "Too many" in error.message else 422
            raise Refusal(status, f"the form cannot be read: {error.message}") from None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
