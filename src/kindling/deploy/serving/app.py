"""The web application: predictions, the server's state and metrics, and the pages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from src.kindling.data.masks import PALETTE
from src.kindling.deploy.serving.access import Access
from src.kindling.deploy.serving.batches import Batches
from src.kindling.deploy.serving.decode import Array, Decoded, ImageDecoder
from src.kindling.deploy.serving.decoders import Decode, Decoders
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model
from src.kindling.deploy.serving.openapi import PREDICT_PATHS, describe
from src.kindling.deploy.serving.responses import Response as Prediction
from src.kindling.deploy.serving.rows import RowDecoder

PAGES = {"/": "page.html", "/docs": "docs.html"}
OPEN_PATHS = (*PAGES, "/health")  # need no key; the pages contain nothing of the model
SOURCES = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
# Of each response: a browser neither guesses its type nor gives it to pages of other sites.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
CLOSE = {"connection": "close"}  # because part of the request was not read
# More than the cores of a small machine: one decodes while another's result is on its way.
IMAGE_DECODERS, ROW_DECODERS = 3, 1
MAX_BODIES = 8  # largest bodies that are in memory at once
MAX_INLINE = 10_000  # outputs whose response holds up others for less than 10 ms
MAX_LINE = 1000  # characters of a reason or a note, which may quote a client's text
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
SIZES = [2**i for i in range(11)]
REQUESTS = Counter("kindling_requests", "Requests by path and status", ["path", "status"])
SECONDS = Histogram("kindling_predict_seconds", "Duration of a prediction", buckets=BUCKETS)
BATCH_SIZE = Histogram("kindling_batch_size", "Inputs in a batch", buckets=SIZES)
WAITING = Gauge("kindling_waiting", "Inputs that wait for the model")
REPLACED = Gauge("kindling_decoders_replaced", "Decoder processes that were replaced")
CONNECTIONS = Gauge("kindling_connections", "Open connections")


class Application:
    """An ASGI application for one model."""

    def __init__(self, model: Model, limits: Limits, access: Access) -> None:
        self.model, self.limits, self.access, self.draining = model, limits, access, False
        self.max_bytes, self.bytes_in_memory = int(limits.max_body * 1e6), 0
        make_decode: Callable[[], Decode] = partial(RowDecoder, model.spec.columns, limits)
        if model.prepare:
            make_decode = partial(ImageDecoder, model.prepare, limits)
        count = IMAGE_DECODERS if model.prepare else ROW_DECODERS
        self.decoders = Decoders(count, make_decode, limits)
        self.batches = Batches(self._compute, limits)
        WAITING.set_function(lambda: self.batches.num_waiting)
        REPLACED.set_function(lambda: self.decoders.num_replaced)
        gets = {
            "/about": self.about,
            "/health": self.health,
            "/ready": self.ready,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
            **dict.fromkeys(PAGES, self.page),
        }
        routes = [Route(path, self.predict, methods=["POST"]) for path in PREDICT_PATHS]
        routes += [Route(path, endpoint) for path, endpoint in gets.items()]
        self.paths = {route.path for route in routes}
        handlers: Any = {HTTPException: _refuse, Exception: _report_failure}
        self.app = Starlette(routes=routes, exception_handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check host and key, count requests, and close connections at shutdown."""
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
                if self.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        path, headers = scope["path"], Headers(scope=scope)
        try:
            if path != "/health" and not self.access.has_host(headers):
                reason = f"not a name of this server: {headers['host'][:100]!r}"
                remedy = "start it with --allowed-hosts and this name"
                await _error(421, f"{reason}; {remedy}")(scope, receive, send_counted)
            elif path in OPEN_PATHS or self.access.has_key(headers):
                await self.app(scope, receive, send_counted)
            else:
                reason = "missing or wrong key; send the header 'Authorization: Bearer KEY'"
                challenge = {"www-authenticate": "Bearer"}
                await _error(401, reason, challenge)(scope, receive, send_counted)
        except asyncio.CancelledError:  # shutdown came first
            if not status:
                await _error(503, "the server is stopping")(scope, receive, send_counted)
        finally:
            REQUESTS.labels(path if path in self.paths else "other", status).inc()

    def _compute(self, x: Array) -> Array:
        BATCH_SIZE.observe(len(x))
        return self.model.predict(x)

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        decoded = await self._read(request)
        outputs = await self.batches.compute(decoded.x)
        seconds = time.perf_counter() - start
        SECONDS.observe(seconds)
        responses = await self._format(outputs, decoded.sizes)
        content: dict[str, Any] = {"predictions": responses} if decoded.several else responses[0]
        if decoded.notes:
            content["notes"] = [_shorten(note) for note in decoded.notes]
        content["milliseconds"] = round(1000 * seconds, 2)
        # Unlike starlette's, with NaN, which a model may compute.
        return Response(json.dumps(content), media_type="application/json")

    async def _read(self, request: Request) -> Decoded:
        """Receive and decode the inputs of a request."""
        body, several = bytearray(), request.scope["path"].endswith("batch")
        try:
            await self._receive(request, body)
            content_type = request.headers.get("content-type", "")
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

    async def _format(self, outputs: Array, sizes: Sequence[Sequence[int]]) -> list[Prediction]:
        responses, work = self.model.responses, outputs.size
        if responses.kind == "mask":  # some ten times as fast for each value
            work = (work + sum(width * height for width, height in sizes)) // 10
        if work > MAX_INLINE:
            return await self.decoders.run(responses.format, outputs, sizes)
        return responses.format(outputs, sizes)

    async def about(self, _: Request) -> Response:
        model, spec = self.model, self.model.spec
        colors = PALETTE[: len(spec.classes)].tolist() if model.responses.kind == "mask" else []
        content = {
            "run": model.name,
            "target": spec.target,
            "classes": spec.classes,
            "colors": [f"rgb{tuple(color)}" for color in colors],
            "columns": [asdict(column) for column in spec.columns],
            "response_kind": model.responses.kind,
            "input": {"type": str(model.dtype), "shape": ["batch", *model.shape]},
            "limits": vars(self.limits),
        }
        return JSONResponse(content)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "stopping"}, 503)
        if self.decoders.all_stuck():
            return JSONResponse({"status": "busy: all decoders work on slow requests"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(describe(self.model, self.access.key is not None, self.limits.max_rows))

    async def page(self, request: Request) -> Response:
        page = Path(__file__).with_name(PAGES[request.scope["path"]]).read_text("utf-8")
        return HTMLResponse(page, headers={**PAGE_HEADERS, **_content_policy(page)})


def _content_policy(page: str) -> dict[str, str]:
    """A page runs its own script, known by its hash, and connects to its own server only."""
    (script,) = re.findall("<script>(.*?)</script>", page, re.S)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"content-security-policy": f"script-src 'sha256-{digest}'; {SOURCES}"}


def _shorten(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"


def _error(status: int, reason: str, headers: Any = None) -> Response:
    return JSONResponse({"error": _shorten(reason)}, status, headers)


async def _refuse(_: Request, error: HTTPException) -> Response:
    again = {"retry-after": "1"} if error.status_code in (429, 503) else {}
    return _error(error.status_code, error.detail, {**again, **(error.headers or {})})


async def _report_failure(_: Request, __: Exception) -> Response:
    """The response to an error of the server's own; uvicorn logs the traceback."""
    return _error(500, "the model failed; see the server's log for the reason")
