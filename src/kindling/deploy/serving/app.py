"""What the server answers: predictions, its state, its metrics and its pages; whatever is wrong is told in JSON.

src/serve.py starts it in a process that imports no torch.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, PROCESS_COLLECTOR, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as written
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.kindling.data.masks import PALETTE
from src.kindling.deploy.serving.inputs import Inputs, refuse
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Batches, Full, Model

ABOUT = {"/predict": "One picture (raw bytes, or a file of a form), or one row (an object) or several (a list) as JSON.",
         "/predict/batch": "Several pictures (files of a form), or several rows (a list) as JSON."}  # fmt: skip
REFUSED = {
    413: "too large",
    415: "of another kind",
    422: "cannot be read",
    429: "too many wait",
    503: "waited too long",
}
OPEN = ("/", "/docs", "/health")  # paths that need no key; the pages hold nothing of the model
SAFE = {"content-security-policy": "default-src 'self' 'unsafe-inline' blob: data:; frame-ancestors 'none'",
        "x-content-type-options": "nosniff", "cache-control": "no-cache"}  # fmt: skip
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Application:
    """Answers requests about one model.

    Args:
        model: what is served.
        limits: what a request may take.
        key: what a client has to know; None: nothing.
        connections: tells how many there are.
    """

    def __init__(self, model: Model, limits: Limits, key: str | None, connections: Callable[[], int]) -> None:
        self.model, self.limits, self.key, self.draining = model, limits, key, False
        it = self.registry = CollectorRegistry()
        it.register(PROCESS_COLLECTOR)
        self.requests = Counter("kindling_requests", "Requests by path and status", ["path", "status"], registry=it)
        self.seconds = Histogram("kindling_predict_seconds", "Time a prediction took", buckets=SECONDS, registry=it)
        sizes = Histogram("kindling_batch_size", "Inputs in a batch", buckets=[2**i for i in range(11)], registry=it)
        self.inputs, self.batches = Inputs(model, limits), Batches(model, limits.batch, limits.queue, sizes.observe)
        Gauge("kindling_waiting", "Inputs that wait", registry=it).set_function(lambda: self.batches.count)
        replaced = Gauge("kindling_decoders_replaced", "Decoder processes that were replaced", registry=it)
        replaced.set_function(lambda: self.inputs.decoders.replaced)
        Gauge("kindling_connections", "Open connections", registry=it).set_function(connections)
        self.counters: dict[tuple[str, int], Any] = {}  # to look a child up costs more than to count
        self.app = self._app()

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

        path, answer = scope["path"], cast(ASGIApp, self.app)
        try:
            if self.key is not None and path not in OPEN and not self._knows_key(scope):
                answer = _told(
                    401, "a key is needed: the header 'Authorization: Bearer KEY'", {"www-authenticate": "Bearer"}
                )
            elif scope["method"] == "POST" and path in ABOUT:  # the way through FastAPI would take half as long again
                answer = await self._tried(Request(scope, receive), path.endswith("batch"))
            await answer(scope, receive, counted)
        except asyncio.CancelledError:  # the end came first
            if not status:
                await _told(503, "the server is stopping")(scope, receive, counted)
        finally:
            if (path, status) not in self.counters:
                path = path if any(getattr(route, "path", "") == path for route in self.app.routes) else "other"
                self.counters[path, status] = self.requests.labels(path, status)
            self.counters[path, status].inc()

    def _knows_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, f"Bearer {self.key}".encode())

    async def _tried(self, request: Request, several: bool) -> Response:
        try:
            return await self._predict(request, several)
        except HTTPException as error:
            return _told(error.status_code, error.detail, error.headers)
        except Exception:
            logging.getLogger("uvicorn.error").exception("a request failed")
            return _told(500, "the model failed; the server's log says why")

    async def _predict(self, request: Request, several: bool) -> Response:
        began = time.perf_counter()
        asked = await self.inputs(request, several)
        try:
            async with asyncio.timeout(self.limits.wait):
                outputs = await self.batches(asked.x)
        except Full:
            refuse(429, f"{self.batches.count:,} wait already; try again later", {"retry-after": "1"})
        except TimeoutError:
            refuse(503, f"its turn did not come within {self.limits.wait:g} s; try again later", {"retry-after": "1"})
        took = time.perf_counter() - began
        self.seconds.observe(took)
        answers = self.model.answers(outputs, asked.sizes)
        told: dict[str, Any] = {"predictions": answers} if asked.several else answers[0]
        told |= {"notes": asked.notes} if asked.notes else {}
        return Response(json.dumps({**told, "milliseconds": round(1000 * took, 2)}), media_type="application/json")

    # -----------------------------------------------------------------------------------------------------------
    # Everything else

    def _app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            blank = np.zeros((1, *self.model.shape), self.model.type)
            await asyncio.gather(asyncio.to_thread(self.model.ask, blank), self.inputs.decoders.start(self.model.facts))
            running = asyncio.create_task(self.batches.run())
            yield
            running.cancel()
            await self.inputs.decoders.close()

        app = FastAPI(title=f"Kindling: {self.model.name}", docs_url=None, redoc_url=None, lifespan=lifespan)
        for path, about in ABOUT.items():
            takes = {"requestBody": {"required": True, "content": self._takes(path.endswith("batch"))}}
            app.post(path, description=about, responses={status: {"description": text} for status, text in REFUSED.items()},
                     openapi_extra=takes)(_answered_before)  # fmt: skip
        for path, name in {"/": "page.html", "/docs": "docs.html"}.items():
            page = HTMLResponse(Path(__file__).with_name(name).read_text("utf-8"), headers=SAFE)
            app.add_api_route(path, partial(_page, page), include_in_schema=False)

        @app.get("/about", description="What the page needs to know of the model.")
        async def about_model() -> dict[str, Any]:
            spec, facts = self.model.spec, self.model.facts
            columns = [{"name": c.name, "kind": c.kind, "levels": c.levels, "mean": c.mean} for c in spec.columns]
            colours = [f"rgb{tuple(colour)}" for colour in PALETTE[: len(spec.classes)].tolist()]
            return {"run": self.model.name, "target": spec.target, "classes": spec.classes, "columns": columns,
                    "predicts": spec.predicts, "colours": colours if spec.predicts == "mask" else [],
                    "input": facts["input"], "output": facts["output"], "limits": vars(self.limits)}  # fmt: skip

        @app.get("/health", description="Whether the process is alive; needs no key.")
        async def health() -> dict[str, str]:
            return {"status": "alive"}

        @app.get("/ready", description="Whether it takes requests: 503 while it is stopping, or all decoders are busy.")
        async def ready() -> Response:
            busy = "busy: all decoders work on slow requests" if self.inputs.decoders.stuck() else ""
            wrong = "stopping" if self.draining else busy
            return JSONResponse({"status": wrong or "ready"}, 503 if wrong else 200)

        @app.get("/metrics", description="For Prometheus.")
        async def metrics() -> Response:
            return Response(written(self.registry), media_type=CONTENT_TYPE_LATEST)

        @app.exception_handler(HTTPException)
        async def told(_: Request, error: HTTPException) -> Response:
            return _told(error.status_code, error.detail, error.headers)

        return app

    def _takes(self, several: bool) -> dict[str, Any]:
        """What a request holds, for the OpenAPI schema."""
        if self.model.prepare is None:
            kinds = {"number": ["number", "null"], "boolean": ["boolean", "null"], "category": ["string", "null"]}
            columns = {c.name: {"type": kinds[c.kind]} | ({"enum": [*c.levels, None]} if c.levels else {})
                       for c in self.model.spec.columns}  # fmt: skip
            row: dict[str, Any] = {"type": "object", "properties": columns, "required": list(columns)}
            return {"application/json": {"schema": {"type": "array", "items": row} if several else row}}
        file = {"type": "string", "format": "binary"}
        fields = {"files": {"type": "array", "items": file}} if several else {"file": file}
        form = {"multipart/form-data": {"schema": {"type": "object", "properties": fields}}}
        return form if several else {"image/*": {"schema": file}} | form


async def _answered_before() -> Response:
    """Stands in the OpenAPI schema for what `Application` answers by itself."""
    raise AssertionError


async def _page(page: Response) -> Response:
    return page


def _told(status: int, reason: str, headers: Any = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)
