"""Read a request: images as bytes or files of a form, rows as JSON."""

from __future__ import annotations

import asyncio

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from src.kindling.deploy.serving.decode import Decoded, Files
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

# Of file names in forms; some of Python's other codecs fail, or make half characters.
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"windows-1252")
# curl's default is the second.
ROW_TYPES = ("application/json", "application/x-www-form-urlencoded", "")
# More than the cores of a small machine: one decodes while another's result is on its way.
IMAGE_DECODERS, ROW_DECODERS = 3, 1
MAX_BODIES = 8  # largest bodies that are in memory at once
CLOSE = {"connection": "close"}  # because part of the request was not read


class RequestReader:
    """Reads requests into inputs of a model, within limits."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model, self.limits, self.max_bytes = model, limits, int(limits.max_body * 1e6)
        self.bytes_in_memory = 0
        count = IMAGE_DECODERS if model.prepare else ROW_DECODERS
        self.decoders = Decoders(count, model.prepare, model.spec.columns, limits)

    async def read(self, request: Request, several: bool) -> Decoded:
        """The decoded inputs of a request.

        Raises:
            HTTPException: with the status and the reason.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.patience):
                await self._receive(request, body)
            files = await self._split_files(request, bytes(body), several)
            decoded = await self.decoders.decode(files, several)
        except TimeoutError:
            reason = f"no complete body within {self.limits.patience:g} s"
            raise HTTPException(408, reason, CLOSE) from None
        except ClientDisconnect:
            reason = "connection closed before the end of the body"
            raise HTTPException(400, reason, CLOSE) from None
        finally:
            self.bytes_in_memory -= len(body)
        shape = decoded.x.shape[1:]
        if shape != self.model.shape:
            reason = f"prepared images have the shape {shape}; the model takes {self.model.shape}"
            raise HTTPException(422, reason)
        return decoded._replace(x=decoded.x.astype(self.model.dtype, copy=False))

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Fill the body. Read on a little after the limit: few clients listen while they send."""
        size, read_limit = 0, 4 * self.max_bytes
        declared = int(request.headers.get("content-length", 0))
        if declared <= read_limit:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= self.max_bytes:
                    body += chunk
                    self.bytes_in_memory += len(chunk)
                if self.bytes_in_memory > MAX_BODIES * self.max_bytes:
                    raise HTTPException(429, "too many large requests; try again later", CLOSE)
                if size > read_limit:
                    break
        size = max(size, declared)
        if size > self.max_bytes:
            reason = f"the body has {size:,} bytes or more; the maximum is {self.max_bytes:,}"
            raise HTTPException(413, reason, CLOSE)

    async def _split_files(self, request: Request, body: bytes, several: bool) -> Files:
        """The names and contents of a request's files; rows are one."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.model.prepare is None:
            if kind not in ROW_TYPES:
                reason = f"this model takes rows as JSON (application/json), not {kind}"
                raise HTTPException(415, reason)
            return [("body", body)]
        if kind in ("application/json", "text/plain", "text/html"):
            reason = f"this model takes images, not {kind}"
            raise HTTPException(415, f"{reason}; send the file's bytes, or a form with files")
        if kind == "multipart/form-data":
            return await self._parse_form(request, body, several)
        if several:
            reason = "/predict/batch takes images as files of a form (multipart/form-data)"
            raise HTTPException(415, reason)
        return [("image", body)]

    async def _parse_form(self, request: Request, body: bytes, several: bool) -> Files:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        options = parse_options_header(request.headers["content-type"])[1]
        charset = options.get(b"charset", b"utf-8").lower()
        if charset not in CHARSETS:
            name = charset[:40].decode("latin-1")
            reason = f"charset {name!r}; send names as UTF-8, without a charset"
            raise HTTPException(422, f"the form cannot be read: {reason}")
        maximum = self.limits.max_rows
        try:
            form = Request(request.scope, receive).form(max_files=maximum, max_fields=maximum)
            async with form as parsed:
                fields = [value for _, value in parsed.multi_items() if not isinstance(value, str)]
                files = [(field.filename or "image", await field.read()) for field in fields]
        except HTTPException as error:
            status = 413 if "Too many" in error.detail else 422
            raise HTTPException(status, f"the form cannot be read: {error.detail}") from None
        if not files:
            raise HTTPException(422, "the form has no file")
        if not several and len(files) > 1:
            reason = f"the form has {len(files)} files; send several to /predict/batch"
            raise HTTPException(422, reason)
        return files
