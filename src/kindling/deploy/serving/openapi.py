"""The description of the server's paths, for client generators and for /docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.kindling.deploy.serving.decode import FORMATS
from src.kindling.deploy.serving.model import Model
from src.kindling.deploy.serving.rows import describe_rows

PREDICT_PATHS = ("/predict", "/predict/batch")
PREDICT_ERRORS = {
    400: "not valid HTTP",
    408: "no complete request in time",
    413: "too large",
    415: "not supported",
    422: "cannot be read",
    429: "too many requests",
    503: "waited too long",
}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
JSON = {"application/json": {"schema": {"type": "object"}}}
SECURITY = {"bearer": {"type": "http", "scheme": "bearer"}}


def describe(model: Model, locked: bool, max_rows: int) -> dict[str, Any]:
    """Make the OpenAPI document; clients send a key if the server is locked."""
    api: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    api["info"]["title"] = f"Kindling: {model.name}"
    for path in PREDICT_PATHS:
        operation = api["paths"][path]["post"]
        content = _describe_input(model, path.endswith("batch"), max_rows)
        operation["requestBody"] = {"required": True, "content": content}
        for status, reason in PREDICT_ERRORS.items():
            operation["responses"][str(status)] = _error(reason)
    for methods in api["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                response.setdefault("content", JSON)
            operation["responses"]["421"] = _error("unknown host")
            if locked:
                operation["responses"]["401"] = _error("missing or wrong key")
    if locked:
        api["components"], api["security"] = {"securitySchemes": SECURITY}, [{"bearer": []}]
    return api


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": ERROR}}}


def _describe_input(model: Model, several: bool, max_rows: int) -> dict[str, Any]:
    """The body of a request."""
    if model.prepare is None:
        schema = describe_rows(model.spec.columns, several, max_rows)
        return {"application/json": {"schema": schema}}
    types = [f"image/{name.lower()}" for name in FORMATS]
    file = {"type": "string", "format": "binary"}
    name = "files" if several else "file"
    value = {"type": "array", "items": file, "minItems": 1} if several else file
    form = {
        "schema": {"type": "object", "properties": {name: value}, "required": [name]},
        "encoding": {name: {"contentType": ", ".join(types)}},
    }
    images = {} if several else {kind: {"schema": file} for kind in types}
    return {**images, "multipart/form-data": form}
