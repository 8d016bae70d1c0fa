"""Requests: descriptions of the server, the key, and the refusal of invalid requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import AsyncMock

import pytest
from starlette.datastructures import Headers as StarletteHeaders
from starlette.exceptions import HTTPException

from src.kindling.config.compose import ROOT
from src.kindling.deploy.serving.access import Access, choose_hosts
from src.kindling.deploy.serving.app import CLOSE, Application
from src.kindling.deploy.serving.limits import Limits
from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    BATCH,
    HEAD,
    JPEG,
    PREDICT_PATHS,
    Headers,
    Server,
    black,
    encode,
    form,
    run_threads,
    scans,
)


def test_about_metrics_and_openapi(digits: Run, images: Server, tables: Server) -> None:
    assert images.request("/health") == (200, {"status": "alive"})
    assert images.request("/ready") == (200, {"status": "ready"})
    _, about = images.request("/about")
    assert about["run"] == f"digits/{digits.path.name}"
    assert about["classes"] == list(digits.spec.classes)
    assert about["limits"]["max_body"] == 1.0
    images.request("/predict", encode())
    status, metrics = images.request("/metrics")
    assert status == 200
    assert re.search(r'^kindling_requests_total\{path="/predict",status="200"\} \d', metrics, re.M)
    assert re.search(r"^kindling_batch_size_count [1-9]", metrics, re.M)
    assert re.search(r"^kindling_connections 1\.0", metrics, re.M)
    api = tables.request("/openapi.json")[1]["paths"]
    assert list(api) == [*PREDICT_PATHS, "/about", "/health", "/ready", "/metrics"]
    schema = api["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row, rows = schema["anyOf"]
    assert row == rows["items"]
    assert row["properties"]["color"]["examples"] == ["blue", "red"]
    assert row["required"] == ["size", "rooms", "color", "new"]
    for path in ("/", "/docs"):
        status, page = images.request(path)
        assert status == 200
        assert re.findall(r"https?://[^\s'\"]*", page) == []


def test_file_without_a_name(images: Server) -> None:
    body = ONE_FILE.replace(b'; filename="0.png"', b"")
    assert images.request("/predict", body, FORM)[0] == 200


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("tables", 1),
        pytest.param("tables", 300, marks=pytest.mark.long),
        pytest.param("images", 300, marks=pytest.mark.long),
    ],
)
def test_openapi_passes_schemathesis(
    kind: str, examples: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis")
    server: Server = request.getfixturevalue(kind)
    hooks = "tests.kindling.deploy.serving.schemathesis_hooks"
    refused = "negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415, 422]"
    (tmp_path / "schemathesis.toml").write_text(f"[checks]\n{refused}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}openapi.json"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", str(examples), "--seed", "1", "--no-color"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": hooks, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Tested: +6\n", done.stdout)


def test_api_key(locked: Server) -> None:
    for path in (*PREDICT_PATHS, "/ready", "/metrics", "/about", "/openapi.json", "/nowhere"):
        for wrong in ("", "Bearer", "Bearer wrong", "Bearer much secrets", "Basic much secret"):
            status, response = locked.request(path, headers={"Authorization": wrong})
            assert (status, list(response)) == (401, ["error"])
    assert locked.request("/metrics")[0] == 200
    assert locked.request("/predict", row())[0] == 200
    for path in ("/health", "/", "/docs"):
        assert locked.request(path, headers={"Authorization": ""})[0] == 200


def test_bearer_in_any_case(locked: Server) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} much secret"}
        assert locked.request("/ready", headers=headers)[0] == 200


def test_host_is_checked(images: Server) -> None:
    for name in ("localhost", "LOCALHOST.", "127.0.0.1", "[::1]"):
        assert images.request("/ready", headers={"Host": f"{name}:{images.port}"})[0] == 200
    for name in ("rebound.example", "localhost.example", "10.0.0.1", "", "[", "localhost:80:80"):
        status, response = images.request("/predict", encode(), {"Host": name})
        assert status == 421
        assert response["error"].endswith("start it with --allowed-hosts and this name")
        assert images.request("/health", headers={"Host": name})[0] == 200
    assert images.raw(b"GET /ready HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_allowed_hosts() -> None:
    for hosts, allowed, refused in (
        (choose_hosts("127.0.0.1", True, ""), "localhost:80", "model.example"),
        (choose_hosts("::1", True, ""), "[::1]", "[::2]:80"),
        (choose_hosts("0.0.0.0", False, "a.example, B.example:80"), "b.EXAMPLE", "localhost"),
    ):
        access = Access(None, hosts)
        assert access.has_host(StarletteHeaders({"host": allowed}))
        assert not access.has_host(StarletteHeaders({"host": refused}))
    anywhere = Access("key", choose_hosts("0.0.0.0", False, ""))
    assert anywhere.has_host(StarletteHeaders({"host": "model.example"}))


def test_security_headers(images: Server) -> None:
    for path in ("/", "/docs", "/health", "/nowhere"):
        response = images.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")[0]
        lines = response.decode().lower().splitlines()
        assert "x-content-type-options: nosniff" in lines
        assert "cross-origin-resource-policy: same-origin" in lines
        if path in ("/", "/docs"):
            assert {"x-frame-options: deny", "referrer-policy: no-referrer"} <= {*lines}
            (policy,) = [line for line in lines if line.startswith("content-security-policy: ")]
            assert "script-src 'sha256-" in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("error", "status", "text", "header"),
    [
        (HTTPException(429, "later"), 429, "later", b"retry-after"),
        (HTTPException(413, "large", CLOSE), 413, "large", b"connection"),
        (ValueError("secret"), 500, "the model failed; see the server's log for the reason", b""),
    ],
)
def test_errors_become_json(error: Exception, status: int, text: str, header: bytes) -> None:
    model: Any = SimpleNamespace(prepare=None, spec=SimpleNamespace(columns=()))
    application = Application(model, Limits(), Access())
    application._read = AsyncMock(side_effect=error)  # type: ignore[method-assign]
    send = AsyncMock()
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}

    async def respond() -> None:
        with suppress(ValueError):  # raised again, for the log
            await application(scope, AsyncMock(), send)

    asyncio.run(respond())
    start, body = (call.args[0] for call in send.call_args_list)
    assert start["status"] == status
    assert json.loads(body["body"]) == {"error": text}
    assert not header or header in dict(start["headers"])


class Bad(NamedTuple):
    """A request, the status of its response, and a part of the reason."""

    body: bytes | None
    status: int
    reason: str
    headers: Headers = {}  # noqa: RUF012
    path: str = "/predict"


def content_type(name: str) -> Headers:
    return {"Content-Type": name}


ONE_FILE, FORM = form(encode())
TWO_FILES, MANY_FILES = form(encode(), encode())[0], form(*[encode()] * 21)[0]
LARGE_FILES, BAD_FILE = form(*[black(5000, 4000)] * 6)[0], form(encode(), b"\x89PNG")[0]
BAD_CRC = encode()[:45] + b"\xff\xff" + encode()[47:]
FORMATS = "send one of PNG, JPEG, BMP, WEBP, TIFF"
BAD_IMAGES = {
    "empty": Bad(b"", 422, "image: is empty"),
    "text": Bad(b"text", 415, FORMATS),
    "text type": Bad(b"text", 415, "takes images, not text/plain", content_type("text/plain")),
    "JSON": Bad(b"{}", 415, "takes images, not ", content_type("application/json")),
    "PDF": Bad(b"%PDF-1.4\n" * 99, 415, "not an image", content_type("image/png")),
    "GIF": Bad(encode(format="GIF"), 415, "not an image"),
    "EPS": Bad(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not an image"),
    "half PNG": Bad(encode()[: len(encode()) // 2], 422, "image: cannot be read: "),
    "half JPEG": Bad(JPEG[: len(JPEG) // 2], 422, "image: cannot be read: "),
    "signature only": Bad(encode()[:10], 422, "cannot be read: the file header is damaged"),
    "check sum": Bad(BAD_CRC, 422, "cannot be read: "),
    "pixels": Bad(black(14000, 14000), 413, "14000 x 14000 pixels; the maximum is 20,000,000"),
    "scans": Bad(scans(1000), 422, "more than 100 scans; save it as a baseline JPEG"),
    "scans of a large JPEG": Bad(scans(90_000, 2000), 422, "more than 100 scans; "),
    "total pixels": Bad(LARGE_FILES, 413, "maximum is 100,000,000; send fewer", FORM, BATCH),
    "body": Bad(b"x" * 1_000_001, 413, "1,000,001 bytes or more; the maximum is 1,000,000"),
    "two files": Bad(TWO_FILES, 422, "the form has 2 files; send several to /predict/b", FORM),
    "no file": Bad(form()[0], 422, "the form has no file", FORM),
    "text field": Bad(
        ONE_FILE.replace(b'file"; filename="0.png"', b'note"'), 422, "the form has no file", FORM
    ),
    "form without end": Bad(ONE_FILE[:60], 422, "the form ", FORM),
    "no boundary": Bad(ONE_FILE, 422, "the form cannot", content_type("multipart/form-data")),
    "damaged file": Bad(BAD_FILE, 422, "1.png: cannot be read", FORM, BATCH),
    "files": Bad(MANY_FILES, 413, "Too many files", FORM, BATCH),
    "batch without form": Bad(encode(), 415, "takes images as files of a form", {}, BATCH),
    "path": Bad(None, 404, "Not Found", {}, "/nowhere"),
    "method": Bad(None, 405, "Method Not Allowed"),
}
ROW = {"size": 3, "rooms": 2, "color": "red", "new": True}


def row(**changes: Any) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


MIXED_ROWS = json.dumps([{f"{r} {i}": 1 for i in range(90)} for r in range(3)]).encode()
HALF = "not valid JSON: unexpected end of hex escape at line 1 column "
BAD_ROWS = {
    "empty": Bad(b"", 422, "the body is not valid JSON: EOF while parsing"),
    "not JSON": Bad(b"size=3", 422, "the body is not valid JSON"),
    "not text": Bad(b'{"size": "\xff"}', 422, "the body is not valid JSON"),
    "NaN": Bad(b'{"size": NaN}', 422, "column 10; send UTF-8 text, and null for NaN"),
    "Infinity": Bad(b'{"size": -Infinity}', 422, "and null for NaN or a missing value"),
    "float64 overflow": Bad(row(size=3).replace(b"3", b"1e999"), 422, "column 'size': inf (row 1)"),
    "float32 overflow": Bad(row(size=1e39), 422, "1e+39 (row 1) is beyond float32 (3.4e38); "),
    "integer overflow": Bad(row(size=10**400), 422, "column 'size': 1000"),
    "boolean for a number": Bad(row(size=True), 422, "column 'size': True (row 1) is not a number"),
    "digits": Bad(b'{"size": ' + b"1" * 5000 + b"}", 422, "the body is not valid JSON"),
    "deep list": Bad(b"[" * 100_000, 422, "not valid JSON: recursion limit exceeded"),
    "deep object": Bad(b'{"a":' * 100_000, 422, "not valid JSON: recursion limit exceeded"),
    "unknown names": Bad(b'{"siez": 1, "romms": 2}', 422, "did you mean"),
    "text for a number": Bad(row(size="large"), 422, "column 'size': 'large' (row 1)"),
    "number for a boolean": Bad(row(new=2), 422, "column 'new': 2 (row 1)"),
    "list for a value": Bad(row(size=[1]), 422, "column 'size': [1] (row 1) is not a number; "),
    "object for a category": Bad(row(color={"a": 1}), 422, "column 'color': {'a': 1} (row 1) is "),
    "missing column": Bad(b'{"size": 1, "rooms": 2, "new": true}', 422, "color"),
    "wrong name": Bad(row().replace(b"rooms", b"room"), 422, "rooms; did you mean 'room'?"),
    "unequal rows": Bad(json.dumps([ROW, {"size": 1}]).encode(), 422, "lacks 3 of the 4 columns"),
    "numbers": Bad(b"[1, 2]", 422, "expected a row as an object of columns and values"),
    "empty list": Bad(b"[]", 422, "expected a row as an object of columns and", {}, BATCH),
    "number": Bad(b"7", 422, "expected a row as an object of columns and values"),
    "batch without list": Bad(row(), 422, "/predict/batch takes a list of rows", {}, BATCH),
    "half character": Bad(row(color="\ud800"), 422, HALF),
    "half character in a name": Bad(row(**{"a\ud800": 1}), 422, HALF),
    "half character in a number": Bad(row(size="1\udfff"), 422, "not valid JSON: lone"),
    "half character in UTF-8": Bad(
        row(color="?").replace(b"?", b"\xed\xa0\x80"), 422, "not valid JSON: invalid unicode"
    ),
    "unknown columns": Bad(row(**{f"c{i}": 1 for i in range(101)}), 413, "row 1 has 105 columns; "),
    "many columns": Bad(row(**{f"c{i}": 1 for i in range(70_000)}), 413, "70,004 columns; "),
    "columns by row": Bad(MIXED_ROWS, 422, "lacks 4 of the 4 columns of the training"),
    "rows": Bad(json.dumps([ROW] * 21).encode(), 413, "21 rows in one request; the maximum is 20"),
    "body": Bad(b" " * 1_000_001, 413, "the maximum is 1,000,000"),
    "image": Bad(
        encode(),
        415,
        "takes rows as JSON (application/json), not image/png",
        {"Content-Type": "image/png"},
    ),
    "form": Bad(ONE_FILE, 415, "(application/json), not multipart/form-data", FORM),
}


def check_refused(server: Server, bad: Bad) -> None:
    status, response = server.request(bad.path, bad.body, bad.headers)
    assert status == bad.status, response
    assert list(response) == ["error"]
    assert bad.reason in response["error"]
    assert "Traceback" not in response["error"]


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_invalid_image_is_refused(name: str, images: Server) -> None:
    check_refused(images, BAD_IMAGES[name])


@pytest.mark.parametrize("charset", ["undefined", "punycode", "unicode_escape"])
def test_charset_of_a_form_is_ignored(charset: str, images: Server) -> None:
    headers = content_type(f"multipart/form-data; boundary=xyz; charset={charset}")
    damaged = form(b"\x89PNG")[0].replace(b"0.png", rb"\ud800.png")
    assert images.request("/predict", ONE_FILE, headers)[0] == 200
    status, response = images.request("/predict", damaged, headers)
    assert (status, response["error"][:13]) == (422, r"\ud800.png: c")


@pytest.mark.parametrize("name", BAD_ROWS)
def test_invalid_row_is_refused(name: str, tables: Server) -> None:
    check_refused(tables, BAD_ROWS[name])


# Bytes, whether the client closes its half, and the start of the response (empty: closed).
BAD_BYTES: dict[str, tuple[bytes, bool, bytes]] = {
    "not HTTP": (b"hello\r\n\r\n", False, b"HTTP/1.1 400 Bad Request"),
    "wrong length": (HEAD + b"many\r\n\r\n", False, b"HTTP/1.1 400 Bad Request"),
    "head without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, False, b"HTTP/1.1 400 "),
    "declared length": (HEAD + b"999999999999\r\n\r\nx", False, b"HTTP/1.1 413 "),
    "half body": (HEAD + b"100\r\n\r\nx", True, b""),
    "half head": (b"POST /predict HT", True, b""),
    "nothing": (b"", True, b""),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_invalid_http_is_refused(name: str, images: Server) -> None:
    content, half, expected = BAD_BYTES[name]
    response = images.raw(content, half=half)
    assert response.startswith(expected) if expected else response == b""
    if expected:
        assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]
    assert images.request("/health")[0] == 200


def test_two_hundred_requests_at_once(images: Server) -> None:
    statuses: list[int] = []
    run_threads(200, lambda _: statuses.append(images.request("/predict", encode())[0]))
    assert statuses == [200] * 200


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.long)])
def test_healthy_after_invalid_requests(rounds: int, images: Server, tables: Server) -> None:
    """The long form sends more than a thousand of them, four at a time."""

    def send_all(part: int) -> None:
        for server, requests in ((images, BAD_IMAGES), (tables, BAD_ROWS)):
            for bad in list(requests.values())[part::4]:
                check_refused(server, bad)
        for content, half, _ in list(BAD_BYTES.values())[part::4]:
            images.raw(content, half=half)

    run_threads(4, send_all)
    before = images.memory(), tables.memory()
    for _ in range(rounds):
        run_threads(4, send_all)
    for server, memory in zip((images, tables), before, strict=True):
        assert server.memory() < memory + 30
        assert server.request("/ready")[0] == 200
    assert images.request("/predict", encode())[0] == 200
    assert tables.request("/predict", row())[0] == 200
