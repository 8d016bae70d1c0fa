"""Read a request: images as bytes or files of a form, rows as JSON."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from src.kindling.deploy.serving.decode import Decoded, media_type
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model

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
        """Read and decode the inputs of a request."""
        body = bytearray()
        try:
            await self._receive(request, body)
            content_type = request.headers.get("content-type", "")
            self._check_type(media_type(content_type), several)
            decoded = await self.decoders.decode(content_type, bytes(body), several)
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

    def _check_type(self, kind: str, several: bool) -> None:
        if self.model.prepare is None:
            if kind not in ROW_TYPES:
                reason = f"this model takes rows as JSON (application/json), not {kind}"
                raise HTTPException(415, reason)
        elif kind in ("application/json", "text/plain", "text/html"):
            reason = f"this model takes images, not {kind}"
            raise HTTPException(415, f"{reason}; send the file's bytes, or a form with files")
        elif several and kind != "multipart/form-data":
            reason = "/predict/batch takes images as files of a form (multipart/form-data)"
            raise HTTPException(415, reason)
