"""What the server answers: predictions, its state, its metrics and its pages; whatever is wrong is told in JSON.

src/serve.py starts it in a process that imports no torch.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image, UnidentifiedImageError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import PROCESS_COLLECTOR as PROCESS
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from src.data.encode_frame import encode_frame, unseen_in
from src.errors import InputError
from src.serving.model import Array, Batches, Full, Model

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
SMALL = 1 << 16  # pixels that take less time to decode than to hand to a thread
HELD = 8  # largest bodies that are held at once
OPEN = ("/", "/docs", "/health")  # paths that need no key; the pages hold nothing of the model
SAFE = {"content-security-policy": "default-src 'self' 'unsafe-inline' blob: data:; frame-ancestors 'none'",
        "x-content-type-options": "nosniff", "cache-control": "no-cache"}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a request may take; the command's flags set them.

    Attributes:
        body: bytes.
        pixels: of a picture, read from its header.
        rows: pictures or rows in one request.
        batch: inputs that the model takes at once.
        queue: inputs that may wait for it.
        wait: seconds that a request may wait.
        patience: seconds that a client has to send one.
    """

    body: int = 10_000_000
    pixels: int = 20_000_000
    rows: int = 256
    batch: int = 64
    queue: int = 1024
    wait: float = 10.0
    patience: float = 10.0


class Application:
    """Answers requests about one model.

    Args:
        model: what is served.
        limits: what a request may take.
        key: what a client has to know; None: nothing.
        connections: tells how many there are.
    """

    def __init__(self, model: Model, limits: Limits, key: str | None, connections: Callable[[], int]) -> None:
        self.model, self.limits, self.key = model, limits, key
        self.draining, self.held = False, 0
        self.decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")
        registry = self.registry = CollectorRegistry()
        registry.register(PROCESS)
        self.requests = Counter(
            "kindling_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram("kindling_predict_seconds", "Time a prediction took", registry=registry,
                                 buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))  # fmt: skip
        sizes = Histogram(
            "kindling_batch_size", "Inputs in a batch", buckets=[2**i for i in range(11)], registry=registry
        )
        self.batches = Batches(model, limits.batch, limits.queue, sizes.observe)
        Gauge("kindling_waiting", "Inputs that wait", registry=registry).set_function(lambda: self.batches.count)
        Gauge("kindling_connections", "Open connections", registry=registry).set_function(connections)
        self.counters: dict[tuple[str, int], Any] = {}  # to look a child up costs more than to count
        self.app = self._routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: the key, the count of requests, and `Connection: close` near the end, around everything else."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        path = scope["path"]
        try:
            if self.key is not None and path not in OPEN and not self._knows_key(scope):
                headers = {"www-authenticate": "Bearer"}
                await JSONResponse({"error": "a key is needed: the header 'Authorization: Bearer KEY'"}, 401, headers)(
                    scope, receive, counted)  # fmt: skip
            else:
                await self.app(scope, receive, counted)
        except asyncio.CancelledError:  # the end came first
            if not status:
                await _told(503, "the server is stopping")(scope, receive, counted)
        finally:
            child = self.counters.get((path, status))
            if child is None:
                known = path if any(getattr(route, "path", "") == path for route in self.app.routes) else "other"
                child = self.counters[known, status] = self.requests.labels(known, status)
            child.inc()

    def _knows_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, f"Bearer {self.key}".encode())

    # -----------------------------------------------------------------------------------------------------------
    # Predictions

    async def predict(self, request: Request) -> Response:
        """One picture (raw bytes, or a file in a form), or one row (an object) or several (a list) as JSON."""
        return await self._answer(request, several=False)

    async def predict_batch(self, request: Request) -> Response:
        """Several pictures (files in a form) or rows (a list) as JSON."""
        return await self._answer(request, several=True)

    async def _answer(self, request: Request, several: bool) -> Response:
        began = time.perf_counter()
        body = await self._body(request)
        try:
            notes: list[str] = []
            if self.model.prepare is None:
                x, several = self._rows(request, body, several, notes)
            else:
                x = await self._pictures(request, body, several)
            if len(x) > self.limits.rows:
                _refuse(413, f"{len(x):,} in one request; at most {self.limits.rows:,} are taken")
            async with asyncio.timeout(self.limits.wait):
                outputs = await self.batches(x)
        except Full:
            _refuse(429, f"{self.batches.count:,} wait already; try again later", {"retry-after": "1"})
        except TimeoutError:
            _refuse(503, f"its turn did not come within {self.limits.wait:g} s; try again later", {"retry-after": "1"})
        finally:
            self.held -= len(body)
        took = time.perf_counter() - began
        self.seconds.observe(took)
        answers = self.model.answers(outputs)
        told: dict[str, Any] = {"predictions": answers} if several else answers[0]
        told |= {"notes": notes} if notes else {}
        return Response(json.dumps({**told, "milliseconds": round(1000 * took, 2)}), media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        """The body; one that is too large is read on for a while, since few clients listen before they have sent all."""
        most, body, size = self.limits.body, bytearray(), 0
        declared = request.headers.get("content-length", "0")
        close = {"connection": "close"}
        try:
            async with asyncio.timeout(self.limits.patience):
                more = not (declared.isdigit() and int(declared) > 4 * most)
                size = 0 if more else int(declared)
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        _refuse(400, "the connection was closed before the body was there")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size <= most:
                        body += chunk
                        self.held += len(chunk)
                    if self.held > HELD * most:
                        _refuse(429, "too much is under way; try again later", {"retry-after": "1"} | close)
                    more = message.get("more_body", False) and size <= 4 * most
            if size > most:
                _refuse(413, f"the body has {size:,} bytes or more; at most {most:,} are taken", close)
        except TimeoutError:
            self.held -= len(body)
            _refuse(408, f"the body did not come within {self.limits.patience:g} s", close)
        except HTTPException:
            self.held -= len(body)
            raise
        return bytes(body)

    async def _pictures(self, request: Request, body: bytes, several: bool) -> Array:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("application/json", "text/plain", "text/html"):
            _refuse(415, f"this model takes pictures, not {kind}; send the file's bytes, or a form with files")
        if kind != "multipart/form-data":
            if several:
                _refuse(415, "/predict/batch takes pictures as files of a form (multipart/form-data)")
            return (await self._prepared("the picture", body))[None]
        files = await self._files(request, body)
        if not files:
            _refuse(422, "the form holds no file")
        if not several and len(files) > 1:
            _refuse(422, f"the form holds {len(files)} files; /predict/batch takes several")
        return np.stack([await self._prepared(f"{name or 'the picture'}", content) for name, content in files])

    async def _files(self, request: Request, body: bytes) -> Sequence[tuple[str | None, bytes]]:
        async def once() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            async with Request(request.scope, once).form(
                max_files=self.limits.rows, max_fields=self.limits.rows
            ) as form:
                files = [value for _, value in form.multi_items() if not isinstance(value, str)]
                return [(file.filename, await file.read()) for file in files]
        except HTTPException as error:
            _refuse(413 if "Too many" in str(error.detail) else 422, f"the form cannot be read: {error.detail}")

    async def _prepared(self, name: str, content: bytes) -> Array:
        """A picture as the model takes it, `(C, H, W)`."""
        if not content:
            _refuse(422, f"{name}: is empty")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels, most = image.width * image.height, self.limits.pixels
                if pixels > most:
                    _refuse(413, f"{name}: {image.width} x {image.height} pixels; at most {most:,} are taken")
                assert self.model.prepare is not None
                if pixels <= SMALL:
                    x = self.model.prepare(image)
                else:
                    x = await asyncio.get_running_loop().run_in_executor(self.decoders, self.model.prepare, image)
        except HTTPException:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            if isinstance(error, UnidentifiedImageError) and not content.startswith(BEGINNINGS):
                _refuse(415, f"{name}: is no picture that can be read ({', '.join(FORMATS)})")
            reason = "its beginning is damaged" if isinstance(error, UnidentifiedImageError) else str(error)
            _refuse(422, f"{name}: cannot be read: {reason}")
        if x.shape != self.model.shape:
            _refuse(422, f"{name}: comes to {x.shape}, and the model takes {self.model.shape}")
        return x.astype(self.model.type, copy=False)

    def _rows(self, request: Request, body: bytes, several: bool, notes: list[str]) -> tuple[Array, bool]:
        """The rows as the model takes them, `(rows, columns)`, and whether they came as a list."""
        import pandas as pd

        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind not in ("application/json", "application/x-www-form-urlencoded"):  # the second is what curl says
            _refuse(415, f"this model takes rows as JSON (application/json), not {kind or 'this'}")
        try:
            given = json.loads(body, parse_constant=_no_constant)
        except RecursionError:
            _refuse(422, "the JSON is nested too deeply")
        except ValueError as error:
            _refuse(422, f"the body is no JSON: {error}")
        rows = given if isinstance(given, list) else [given]
        if several and not isinstance(given, list):
            _refuse(422, "/predict/batch takes a list of rows")
        if not rows or not all(isinstance(row, dict) for row in rows):
            _refuse(422, "a row is an object of columns and values, several are a list of such")
        if len(rows) > self.limits.rows:
            _refuse(413, f"{len(rows):,} in one request; at most {self.limits.rows:,} are taken")
        names = dict.fromkeys(name for row in rows for name in row)
        for number, row in enumerate(rows, 1):
            for name in names:
                if isinstance(row.get(name), list | dict):
                    _refuse(422, f"column '{name}' (row {number}): a number, a text, true, false or null is expected")
                if name not in row:
                    _refuse(
                        422, f"row {number} lacks the column '{name}' that others have; null stands for a missing value"
                    )
        frame = pd.DataFrame({name: pd.Series([row[name] for row in rows]) for name in names})
        try:
            with np.errstate(all="ignore"):
                x = encode_frame(frame, self.model.spec.columns, notes)
        except (InputError, OverflowError) as error:
            _refuse(422, str(error))
        for name, (_, example) in unseen_in(frame, x, self.model.spec.columns).items():
            notes.append(f"{name}: the training did not have {example!r}")
        return x, isinstance(given, list)

    # -----------------------------------------------------------------------------------------------------------
    # Everything else

    def about(self) -> dict[str, Any]:
        """What the page needs to know of the model."""
        spec = self.model.spec
        columns = [{"name": c.name, "kind": c.kind, "levels": c.levels, "mean": c.mean} for c in spec.columns]
        return {"run": self.model.name, "kind": spec.kind, "target": spec.target, "classes": spec.classes,
                "columns": columns, "input": self.model.facts["input"], "output": self.model.facts["output"],
                "limits": vars(self.limits)}  # fmt: skip

    def health(self) -> dict[str, str]:
        """Whether the process is alive; needs no key."""
        return {"status": "alive"}

    def ready(self) -> Response:
        """Whether it takes requests: 503 while it is stopping."""
        return JSONResponse({"status": "stopping" if self.draining else "ready"}, 503 if self.draining else 200)

    def metrics(self) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def _routes(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            await asyncio.to_thread(self.model.ask, np.zeros((1, *self.model.shape), self.model.type))
            running = asyncio.create_task(self.batches.run())
            yield
            running.cancel()

        app = FastAPI(title=f"Kindling: {self.model.name}", version=str(self.model.facts.get("kindling", "1")),
                      docs_url=None, redoc_url=None, lifespan=lifespan)  # fmt: skip
        refused = {
            413: "too large",
            415: "another kind",
            422: "cannot be read",
            429: "the queue is full",
            503: "waited too long",
        }
        responses: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in refused.items()}
        for path, function in {"/predict": self.predict, "/predict/batch": self.predict_batch}.items():
            app.add_api_route(path, function, methods=["POST"], responses=responses, response_class=JSONResponse,
                              openapi_extra={"requestBody": {"required": True, "content": self._takes(path)}})  # fmt: skip
        routes: dict[str, Callable[[], Any]] = {"/about": self.about, "/health": self.health, "/ready": self.ready,
                                                "/metrics": self.metrics}  # fmt: skip
        for path, gives in routes.items():
            app.add_api_route(path, _awaitable(gives), methods=["GET"], description=gives.__doc__)
        for path, name in {"/": "page.html", "/docs": "docs.html"}.items():
            page = HTMLResponse(Path(__file__).with_name(name).read_text("utf-8"), headers=SAFE)
            app.add_api_route(path, _awaitable(partial(_same, page)), methods=["GET"], include_in_schema=False)

        async def told(_: Request, error: Any) -> Response:
            return _told(error.status_code, error.detail, error.headers)

        async def failed(_: Request, error: Exception) -> Response:
            return _told(500, "the model failed; the server's log says why")

        app.add_exception_handler(HTTPException, told)
        app.add_exception_handler(Exception, failed)
        return app

    def _takes(self, path: str) -> dict[str, Any]:
        """What a request holds, for the OpenAPI schema."""
        if self.model.prepare is None:
            kinds = {"number": ["number", "null"], "boolean": ["boolean", "null"], "category": ["string", "null"]}
            columns = {c.name: {"type": kinds[c.kind]} | ({"enum": [*c.levels, None]} if c.levels else {})
                       for c in self.model.spec.columns}  # fmt: skip
            row: dict[str, Any] = {"type": "object", "properties": columns, "required": list(columns)}
            return {"application/json": {"schema": row if path == "/predict" else {"type": "array", "items": row}}}
        file = {"type": "string", "format": "binary"}
        if path == "/predict":
            form: dict[str, Any] = {"type": "object", "properties": {"file": file}}
            return {"image/*": {"schema": file}, "multipart/form-data": {"schema": form}}
        form = {"type": "object", "properties": {"files": {"type": "array", "items": file}}}
        return {"multipart/form-data": {"schema": form}}


def _awaitable(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """FastAPI would hand a plain function to a thread."""

    async def called() -> Any:
        return function()

    return called


def _same(page: Response) -> Response:
    return page


def _told(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> NoReturn:
    raise HTTPException(status, reason, headers)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; null stands for a missing value")
