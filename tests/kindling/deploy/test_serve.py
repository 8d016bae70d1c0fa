"""Serving: a real process at a real socket, asked rightly and wrongly; and its page in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.kindling.config.compose import ROOT
from src.kindling.data.spec import Spec
from src.kindling.data.tables.encode import encode_frame
from src.kindling.deploy import export as exporting
from src.kindling.deploy.export import answer, export
from src.kindling.runs.run import Run
from tests.conftest import kept_runs, mistakes, train

for needed in ("fastapi", "uvicorn", "onnxruntime", "onnxscript", "python_multipart", "prometheus_client"):
    pytest.importorskip(needed, reason="the extras 'serve' and 'export' are not installed")

from src.kindling.deploy.serving.model import Model  # noqa: E402  # needs the extras

Headers = dict[str, str]


class Server:
    """A server process.

    Args:
        model: what is served.
        flags: of the command.
        key: sent with every request.
        script: run instead of src.serve.
    """

    def __init__(self, model: Path, *flags: str, key: str | None = None, script: str = "") -> None:
        begin = ["-c", script] if script else ["-m", "src.serve"]
        words = [sys.executable, *begin, str(model), "--port", "0", *flags]
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "KINDLING_KEY": key or ""}, start_new_session=True)  # fmt: skip
        self.key = key
        assert self.process.stdout
        lines = [self.process.stdout.readline() for _ in range(2)]
        found = re.fullmatch(r"page       (http://127\.0\.0\.1:(\d+)/)\n", lines[1])
        assert found, lines + self.process.stderr.readlines()  # type: ignore[union-attr]
        self.url, self.port = found[1], int(found[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(
        self, path: str, body: bytes | None = None, headers: Headers | None = None, method: str = ""
    ) -> tuple[int, Any]:
        """Status, and what the JSON says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        connection.request(method or ("GET" if body is None else "POST"), path, body, {**given, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(content) if kind == "application/json" else content.decode()

    def raw(self, *parts: bytes, half: bool = False) -> bytes:
        """What comes back for these bytes until the connection is closed."""
        with self.connect() as end:
            for part in parts:
                end.sendall(part)
            if half:
                end.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: end.recv(65536), b""))

    def worker(self) -> int:
        return int(
            subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()[0]
        )

    def memory(self) -> float:
        """Of the worker, in MB."""
        return float(re.search(r"^process_resident_memory_bytes (\S+)", self.ask("/metrics")[1], re.M)[1]) / 1e6  # type: ignore[index]

    def decoders(self) -> list[int]:
        """Of the worker, once it is ready."""
        assert self.ask("/ready")[0] == 200
        words = ["pgrep", "-P", str(self.worker())]
        return [int(pid) for pid in subprocess.run(words, capture_output=True, text=True).stdout.split()]

    def stop(self) -> tuple[int, str]:
        """Status and standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error


@contextmanager
def serving(model: Path, *flags: str, key: str | None = None, script: str = "") -> Iterator[Server]:
    server = Server(model, *flags, key=key, script=script)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        assert server.process.returncode == 0


@contextmanager
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a run, and exports without a process for each proof."""
    with kept_runs(tmp_path_factory) as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "in_fresh_process", lambda *words: answer(*map(str, words)))
        yield logs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with trained(tmp_path_factory):
        run = train("digits", "trainer.max_epochs=4", "trainer.limit_train_batches=1.0").run
        export(run)
        return run


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on numbers, some missing, categories and booleans."""
    with trained(tmp_path_factory) as logs:
        rows = [
            f"{i % 17},{'' if i % 5 == 0 else i % 7},{['red', 'blue', ''][i % 3]},{bool(i % 2)},{i * 0.5}"
            for i in range(200)
        ]
        (logs / "houses.csv").write_text("\n".join(["size,rooms,colour,new,price", *rows]) + "\n")
        run = train("table", f"data.path={logs}/houses.csv", "data.target=price").run
        export(run)
        return run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on pictures and their masks."""
    with trained(tmp_path_factory):
        run = train("segmentation", "data.scenes=[96,32,32]", "net.channels=[8,16]").run
        export(run)
        return run


def file_of(run: Run) -> Path:
    return run.path / "export" / "model.onnx"


@pytest.fixture(scope="module")
def pictures(digits: Run) -> Iterator[Server]:
    """A server that is asked for digits by many tests, and has to stay healthy."""
    with serving(file_of(digits), "--max-body", "1", "--max-rows", "20") as server:
        yield server


@pytest.fixture(scope="module")
def tables(houses: Run) -> Iterator[Server]:
    with serving(file_of(houses), "--max-body", "1", "--max-rows", "20") as server:
        yield server


def png(pixels: Any = None, **options: Any) -> bytes:
    """A picture's bytes; 8x8 grey ones that grow brighter when none are given."""
    file = io.BytesIO()
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4 if pixels is None else pixels)
    image.save(file, **{"format": "PNG", **options})
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def black(width: int, height: int) -> bytes:
    """Many pixels of one bit each, in a few kB."""
    rows = zlib.compress(b"\x00" * ((width + 7) // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND")


def scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG with so many empty scans more than usual."""
    usual = png(np.full((side, side), 99, np.uint8), format="JPEG", progressive=True)
    last = usual.rindex(b"\xff\xda")
    header = usual[last : last + 2 + int.from_bytes(usual[last + 2 : last + 4], "big")]
    return usual[:-2] + count * header + usual[-2:]


def form(*files: bytes, name: str = "file") -> tuple[bytes, Headers]:
    parts = [f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{i}.png"\r\n\r\n'.encode() + file + b"\r\n"
             for i, file in enumerate(files)]  # fmt: skip
    return b"".join(parts) + b"--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


# ---------------------------------------------------------------------------------------------------------------
# Right questions


def test_a_picture_is_answered_as_the_run_answers(digits: Run, pictures: Server) -> None:
    data = digits.data()
    index = data.indices["test"][:5]
    x = data.samples.x[index]
    with torch.inference_mode():
        expected = digits.task(x).softmax(1).numpy()
    files = [png((one[0].numpy() * (255 / 16)).round().astype(np.uint8)) for one in x]
    body, headers = form(*files, name="files")
    status, told = pictures.ask("/predict/batch", body, headers)
    assert status == 200
    for file, row, answered in zip(files, expected, told["predictions"], strict=True):
        assert list(answered["probabilities"].values()) == pytest.approx(row, abs=1e-6)
        assert list(answered["probabilities"]) == list(digits.spec.classes)
        assert answered["prediction"] == digits.spec.classes[row.argmax()]
        assert answered["probability"] == pytest.approx(row.max(), abs=1e-6)
        raw, in_form = pictures.ask("/predict", file), pictures.ask("/predict", *form(file))
        assert (raw[0], in_form[0]) == (200, 200)
        for one in (raw[1], in_form[1]):
            assert one["probabilities"] == pytest.approx(answered["probabilities"], abs=1e-6)
            assert set(one) == {"prediction", "probability", "probabilities", "milliseconds"}


def test_rows_are_answered_as_the_run_answers(houses: Run, tables: Server) -> None:
    rows = [
        {"size": 3, "rooms": 2.5, "colour": "red", "new": True},
        {"new": False, "colour": None, "rooms": None, "size": -1e3},
        {"size": "4", "rooms": 0, "colour": "blue", "new": "true"},
        {"size": 1, "rooms": None, "colour": "green", "new": None},
    ]
    with torch.inference_mode():
        expected = houses.task(torch.from_numpy(encode_frame(pd.DataFrame(rows), houses.spec.columns)))[:, 0].tolist()
    for path in ("/predict", "/predict/batch"):
        status, told = tables.ask(path, json.dumps(rows).encode())
        assert status == 200
        assert [one["prediction"] for one in told["predictions"]] == pytest.approx(expected, rel=1e-5)
        assert {one["target"] for one in told["predictions"]} == {"price"}
        assert told["notes"] == ["colour: the training did not have 'green'"]
    for row, value in zip(rows, expected, strict=True):
        assert tables.ask("/predict", json.dumps(row).encode())[1]["prediction"] == pytest.approx(value, rel=1e-5)
    assert tables.ask("/predict", json.dumps({**rows[0], "id": 7}).encode())[1]["notes"] == [
        "columns that the training did not have, left out: id"
    ]


def test_labels_and_several_values_by_name() -> None:
    def answers(spec: Spec, outputs: list[list[float]]) -> list[dict[str, Any]]:
        model = object.__new__(Model)
        model.spec = spec
        return model.answers(np.array(outputs, dtype=np.float32))

    labels = Spec((1, 8, 8), 3, "image", classes=("cat", "dog", "sea"), target_shape=(3,))
    told = answers(labels, [[0.75, 0.625, 0.5], [0.0, 0.25, 0.125]])
    assert [one["prediction"] for one in told] == [["cat", "dog"], []]
    assert told[0]["probabilities"] == {"cat": 0.75, "dog": 0.625, "sea": 0.5}
    place = Spec((1, 8, 8), 2, "image", target="place", targets=("x", "y"), target_shape=(2,))
    assert answers(place, [[1.5, -2.0]]) == [{"prediction": {"x": 1.5, "y": -2.0}, "target": "place"}]


def test_what_it_says_of_itself(digits: Run, pictures: Server, tables: Server) -> None:
    assert pictures.ask("/health") == (200, {"status": "alive"})
    assert pictures.ask("/ready") == (200, {"status": "ready"})
    _, about = pictures.ask("/about")
    assert about["run"] == f"digits/{digits.path.name}"
    assert about["classes"] == list(digits.spec.classes)
    assert about["limits"]["max_body"] == 1.0
    pictures.ask("/predict", png())
    status, metrics = pictures.ask("/metrics")
    assert status == 200
    assert re.search(r'^kindling_requests_total\{path="/predict",status="200"\} \d', metrics, re.M)
    assert re.search(r"^kindling_batch_size_count [1-9]", metrics, re.M)
    assert re.search(r"^kindling_connections 1\.0", metrics, re.M)
    api = tables.ask("/openapi.json")[1]["paths"]
    assert list(api) == ["/predict", "/predict/batch", "/about", "/health", "/ready", "/metrics"]
    row = api["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert row["properties"]["colour"] == {"type": ["string", "null"], "enum": ["blue", "red", None]}
    assert row["required"] == ["size", "rooms", "colour", "new"]
    for path in ("/", "/docs"):
        status, page = pictures.ask(path)
        assert status == 200
        assert re.findall(r"https?://[^\s'\"]*", page) == []


def test_requests_are_gathered_into_batches(digits: Run) -> None:
    from src.kindling.deploy.serving.model import Batches

    sizes: list[int] = []
    model = SimpleNamespace(ask=lambda x: x * 2)

    async def asked() -> list[Any]:
        batches = Batches(model, 8, 100, sizes.append)  # type: ignore[arg-type]
        running = asyncio.create_task(batches.run())
        found = await asyncio.gather(*[batches(np.full((n, 1), n)) for n in (1, 2, 3, 4, 9, 1)])
        running.cancel()
        return found

    for n, outputs in zip((1, 2, 3, 4, 9, 1), asyncio.run(asked()), strict=True):
        assert outputs.tolist() == [[2 * n]] * n
    assert sizes == [6, 4, 9, 1]  # at most 8, in order; more than that by itself


# ---------------------------------------------------------------------------------------------------------------
# Wrong questions


JPEG = png(format="JPEG")
ONE, TWO, MANY, NONE = form(png()), form(png(), png()), form(*[png()] * 21), form()


def charset(name: str) -> Headers:
    return {"Content-Type": f"multipart/form-data; boundary=xyz; charset={name}"}


JSON = {"Content-Type": "application/json"}
# What is sent, where, with which headers; the status that it gets, and what the reason says.
BAD_PICTURES: dict[str, tuple[str, bytes | None, Headers, int, str]] = {
    "nothing": ("/predict", b"", {}, 422, "the picture: is empty"),
    "text": ("/predict", b"no picture", {}, 415, "is no picture that can be read (PNG, JPEG, BMP, WEBP, TIFF)"),
    "text that says so": ("/predict", b"no picture", {"Content-Type": "text/plain"}, 415, "takes pictures, not text/plain"),
    "JSON": ("/predict", b"{}", JSON, 415, "takes pictures, not application/json"),
    "a PDF that says otherwise": ("/predict", b"%PDF-1.4\n" * 99, {"Content-Type": "image/png"}, 415, "is no picture"),
    "an animation": ("/predict", png(format="GIF"), {}, 415, "is no picture"),
    "PostScript": ("/predict", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 415, "is no picture"),
    "half of a picture": ("/predict", png()[: len(png()) // 2], {}, 422, "the picture: cannot be read: "),
    "half of a photograph": ("/predict", JPEG[: len(JPEG) // 2], {}, 422, "the picture: cannot be read: "),
    "the first bytes alone": ("/predict", png()[:10], {}, 422, "cannot be read: its beginning is damaged"),
    "a wrong check sum": ("/predict", png()[:45] + b"\xff\xff" + png()[47:], {}, 422, "cannot be read: "),
    "196 megapixels": ("/predict", black(14000, 14000), {}, 413, "the picture: 14000 x 14000 pixels; at most 20,000,000 are taken"),
    "many scans": ("/predict", scans(1000), {}, 422, "the picture: the JPEG has more than 100 scans; save it as a baseline JPEG"),
    "many scans of a large JPEG": ("/predict", scans(90_000, 2000), {}, 422, "the picture: the JPEG has more than 100 scans"),
    "many pixels together": ("/predict/batch", *form(*[black(5000, 4000)] * 6), 413, "120,000,000 pixels or more in one request; at most 100,000,000 are taken, so send fewer pictures at once"),
    "too many bytes": ("/predict", b"x" * 1_000_001, {}, 413, "the body has 1,000,001 bytes or more; at most 1,000,000"),
    "two files": ("/predict", *TWO, 422, "the form holds 2 files; /predict/batch takes several"),
    "no file": ("/predict", *NONE, 422, "the form holds no file"),
    "a text instead of a file": ("/predict", ONE[0].replace(b'; filename="0.png"', b""), ONE[1], 422, "the form "),
    "a form without an end": ("/predict", ONE[0][:60], ONE[1], 422, "the form "),
    "a form without a boundary": ("/predict", ONE[0], {"Content-Type": "multipart/form-data"}, 422, "the form cannot be read"),
    "a charset that is none": ("/predict", ONE[0], charset("undefined"), 422, "the form cannot be read: charset 'undefined'; send names as UTF-8, without a charset"),
    "a charset of host names": ("/predict", ONE[0].replace(b"0.png", b"\xff.png"), charset("punycode"), 422, "the form cannot be read: charset 'punycode'"),
    "a charset that makes half characters": ("/predict", form(b"\x89PNG")[0].replace(b"0.png", rb"\ud800.png"), charset("unicode_escape"), 422, "the form cannot be read: charset 'unicode_escape'"),
    "a damaged file in a form": ("/predict/batch", *form(png(), b"\x89PNG"), 422, "1.png: cannot be read"),
    "too many files": ("/predict/batch", *MANY, 413, "Too many files"),
    "one where several are taken": ("/predict/batch", png(), {}, 415, "takes pictures as files of a form"),
    "another path": ("/nowhere", None, {}, 404, "Not Found"),
    "another method": ("/predict", None, {}, 405, "Method Not Allowed"),
}  # fmt: skip
ROW = {"size": 3, "rooms": 2, "colour": "red", "new": True}


def row(**changes: Any) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


BAD_ROWS: dict[str, tuple[str, bytes | None, Headers, int, str]] = {
    "nothing": ("/predict", b"", JSON, 422, "the body is no JSON: Expecting value"),
    "no JSON": ("/predict", b"size=3", JSON, 422, "the body is no JSON"),
    "no text": ("/predict", b'{"size": "\xff"}', JSON, 422, "the body is no JSON"),
    "NaN": ("/predict", b'{"size": NaN}', JSON, 422, "NaN is not valid JSON; send null for a missing value"),
    "Infinity": ("/predict", b'{"size": -Infinity}', JSON, 422, "-Infinity is not valid JSON; send null for a missing value"),
    "too large a number": ("/predict", row(size=3).replace(b"3", b"1e999"), JSON, 422, "column 'size': inf (row 1) is no number"),
    "a number of many digits": ("/predict", row(size=10**400), JSON, 422, "int too large"),
    "a number of too many digits": ("/predict", b'{"size": ' + b"1" * 5000 + b"}", JSON, 422, "the body is no JSON"),
    "beyond float32": ("/predict", row(size=1e39), JSON, 422, "column 'size': 1e+39 (row 1) is no number"),
    "deep JSON": ("/predict", b"[" * 100_000, JSON, 422, "the JSON is nested too deeply"),
    "deep objects": ("/predict", b'{"a":' * 100_000, JSON, 422, "the JSON is nested too deeply"),
    "unknown columns alone": ("/predict", b'{"siez": 1, "romms": 2}', JSON, 422, "did you mean"),
    "text for a number": ("/predict", row(size="large"), JSON, 422, "column 'size': 'large' (row 1) is no number; the training had numbers there"),
    "a number for a truth": ("/predict", row(new=2), JSON, 422, "column 'new': 2 (row 1) is no boolean"),
    "a list for a value": ("/predict", row(size=[1]), JSON, 422, "column 'size' (row 1): a number, a text, true, false or null is expected"),
    "a missing column": ("/predict", b'{"size": 1, "rooms": 2, "new": true}', JSON, 422, "the table lacks 1 of the 4 columns that the training had: colour"),
    "a wrong name": ("/predict", row().replace(b"rooms", b"room"), JSON, 422, "rooms; did you mean 'room'?"),
    "a column that one row lacks": ("/predict", json.dumps([ROW, {"size": 1}]).encode(), JSON, 422, "row 2 lacks the column 'rooms' that others have"),
    "a list of numbers": ("/predict", b"[1, 2]", JSON, 422, "a row is an object of columns and values"),
    "an empty list": ("/predict/batch", b"[]", JSON, 422, "a row is an object of columns and values"),
    "a number": ("/predict", b"7", JSON, 422, "a row is an object of columns and values"),
    "one where several are taken": ("/predict/batch", row(), JSON, 422, "/predict/batch takes a list of rows"),
    "half a character": ("/predict", row(colour="\ud800"), JSON, 422, "column 'colour' (row 1): the text has half of a surrogate pair, \\ud800; send the whole character"),
    "half a character for a number": ("/predict", row(size="1\udfff"), JSON, 422, "column 'size' (row 1): the text has half of a surrogate pair, \\udfff"),
    "half a character in a name": ("/predict", row(**{"a\ud800": 1}), JSON, 422, "column 'a\\ud800' (row 1): the name has half of a surrogate pair, \\ud800"),
    "half a character in bytes": ("/predict", row(colour="?").replace(b"?", b"\xed\xa0\x80"), JSON, 422, "the body is no JSON: 'utf-8' codec can't decode"),
    "a missing name of half a character": ("/predict", json.dumps([{"\ud800": 1}, {"size": 1}]).encode(), JSON, 422, "column '\\ud800' (row 1): the name has half"),
    "unknown columns": ("/predict", row(**{f"c{i}": 1 for i in range(101)}), JSON, 413, "row 1: 105 columns; the training had 4, and at most 100 others are taken"),
    "unknown columns over many rows": ("/predict", json.dumps([{f"{r} {i}": 1 for i in range(90)} for r in range(3)]).encode(), JSON, 413, "row 2: 180 columns; the training had 4, and at most 100 others are taken"),
    "many unknown columns": ("/predict", row(**{f"c{i}": 1 for i in range(70_000)}), JSON, 413, "row 1: 70,004 columns; the training had 4, and at most 100 others are taken"),
    "too many rows": ("/predict", json.dumps([ROW] * 21).encode(), JSON, 413, "21 rows in one request; at most 20 are taken"),
    "too many bytes": ("/predict", b" " * 1_000_001, JSON, 413, "at most 1,000,000"),
    "a picture": ("/predict", png(), {"Content-Type": "image/png"}, 415, "takes rows as JSON (application/json), not image/png"),
    "a form": ("/predict", *ONE, 415, "takes rows as JSON (application/json), not multipart/form-data"),
}  # fmt: skip


def is_refused(server: Server, path: str, body: bytes | None, headers: Headers, status: int, reason: str) -> None:
    told = server.ask(path, body, headers)
    assert told[0] == status, told
    assert list(told[1]) == ["error"]
    assert reason in told[1]["error"]
    assert "Traceback" not in told[1]["error"]


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture(name: str, pictures: Server) -> None:
    is_refused(pictures, *BAD_PICTURES[name])


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row(name: str, tables: Server) -> None:
    is_refused(tables, *BAD_ROWS[name])


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
# Bytes that are sent, and whether the client closes its half; how the answer begins ('': the connection is closed).
BAD_BYTES: dict[str, tuple[bytes, bool, bytes]] = {
    "no HTTP": (b"hello\r\n\r\n", False, b"HTTP/1.1 400 Bad Request"),
    "a wrong length": (HEAD + b"many\r\n\r\n", False, b"HTTP/1.1 400 Bad Request"),
    "a head without an end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, False, b"HTTP/1.1 4"),
    "more than is read": (HEAD + b"999999999999\r\n\r\nx", False, b"HTTP/1.1 413 "),
    "a body that ends early": (HEAD + b"100\r\n\r\nx", True, b""),
    "a head that ends early": (b"POST /predict HT", True, b""),
    "nothing": (b"", True, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes(name: str, pictures: Server) -> None:
    given, half, expected = BAD_BYTES[name]
    answered = pictures.raw(given, half=half)
    assert answered.startswith(expected) if expected else answered == b""
    if expected:
        assert json.loads(answered.partition(b"\r\n\r\n")[2])["error"]
    assert pictures.ask("/health")[0] == 200


def together(count: int, function: Callable[[int], object]) -> None:
    """Call a function in as many threads; what one raises is raised."""
    problems: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            function(i)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_two_hundred_at_once(pictures: Server) -> None:
    answered: list[int] = []
    together(200, lambda _: answered.append(pictures.ask("/predict", png())[0]))
    assert answered == [200] * 200


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.long)])
def test_after_much_that_is_bad_it_is_healthy(rounds: int, pictures: Server, tables: Server) -> None:
    """The long form sends more than a thousand of them, four at a time."""

    def everything(part: int) -> None:
        for server, bad in ((pictures, BAD_PICTURES), (tables, BAD_ROWS)):
            for words in list(bad.values())[part::4]:
                is_refused(server, *words)
        for given, half, _ in list(BAD_BYTES.values())[part::4]:
            pictures.raw(given, half=half)

    together(4, everything)
    before = pictures.memory(), tables.memory()
    for _ in range(rounds):
        together(4, everything)
    for server, memory in zip((pictures, tables), before, strict=True):
        assert server.memory() < memory + 30
        assert server.ask("/ready")[0] == 200
    assert pictures.ask("/predict", png())[0] == 200
    assert tables.ask("/predict", row())[0] == 200


def test_scans_of_a_jpeg_are_counted_where_a_decoder_finds_them() -> None:
    from src.kindling.deploy.serving.decode import has_more_scans

    usual = png(np.full((64, 64), 99, np.uint8), format="JPEG", progressive=True)
    count = usual.count(b"\xff\xda")
    assert count > 1
    assert (has_more_scans(usual, count - 1), has_more_scans(usual, count)) == (True, False)
    start = b"\xff\xda\x00\x08"
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 200 * len(start)) + 200 * start
    for harmless in (usual[:2] + thumbnail + usual[2:], usual + 200 * start):
        assert not has_more_scans(harmless, count)
        assert has_more_scans(harmless, count - 1)
    assert has_more_scans(usual[:2] + thumbnail + scans(100)[2:], 100)


def test_a_long_and_narrow_picture_is_not_resized_to_gigapixels() -> None:
    from src.kindling.data.images.prepare import Preparation
    from src.kindling.deploy.serving.decode import Refusal, decode_images
    from src.kindling.deploy.serving.limits import Limits

    step = {"do": "resize", "size": [64], "longest": None, "how": "BILINEAR"}
    prepare = Preparation(1, 64, "squash", whole=True, white=255, steps=[step])
    assert decode_images([("a.png", black(640, 64))], False, prepare, Limits()).x.shape == (1, 1, 64, 640)
    with pytest.raises(Refusal) as refused:
        decode_images([("a.png", black(65_536, 1))], False, prepare, Limits())
    reason = "a.png: 65536 x 1 pixels would be resized to 268,435,456; at most 20,000,000 are taken"
    assert (refused.value.status, refused.value.reason) == (413, reason)


def test_only_little_work_is_done_in_the_event_loop() -> None:
    from src.kindling.data.images.prepare import Preparation
    from src.kindling.deploy.serving.decode import Decoded, decode_small_images
    from src.kindling.deploy.serving.limits import Limits

    def decoded(*files: bytes, prepare: Preparation) -> Decoded | None:
        return decode_small_images([("a", file) for file in files], True, prepare, Limits())

    small = Preparation(1, 8, "squash", whole=False, white=255)
    large = Preparation(1, 512, "squash", whole=False, white=255)
    step = {"do": "resize", "size": [64], "longest": None, "how": "BILINEAR"}
    whole = Preparation(1, 64, "squash", whole=True, white=255, steps=[step])
    for file in (png(), JPEG, black(256, 256)):
        assert decoded(file, prepare=small) is not None
    assert decoded(*[black(100, 100)] * 6, prepare=small) is not None
    texts = png()[:33] + 2 * chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"")) + png()[33:]
    padded = png() + b" " * 70_000
    for file in (black(257, 256), png(format="TIFF"), png(format="WEBP"), texts, padded):
        assert decoded(file, prepare=small) is None
    assert decoded(*[black(100, 100)] * 7, prepare=small) is None
    assert decoded(png(), prepare=large) is None
    assert decoded(black(64, 64), prepare=whole) is not None
    assert decoded(black(64, 1), prepare=whole) is None


# A server whose decoders stop at what begins with "slow", as at a crafted file, until they are killed.
STUCK = """
import sys
from src.kindling.config.command import run_command
from src.serve import main
from src.kindling.deploy.serving import decoders

STUB = '''
import time
from src.kindling.deploy.serving import decoder_process

def slow(decode):
    def decoded(given, *others):
        while (given if isinstance(given, bytes) else given[0][1]).startswith(b"slow"):
            time.sleep(60)
        return decode(given, *others)
    return decoded

decoder_process.decode_rows = slow(decoder_process.decode_rows)
decoder_process.decode_images = slow(decoder_process.decode_images)
decoder_process.main()
'''
decoders.COMMAND = (sys.executable, "-c", STUB)
run_command(main)
"""


@pytest.mark.parametrize("kind", ["image", "table"])
def test_a_slow_decode_is_ended_and_holds_up_nobody(kind: str, digits: Run, houses: Run) -> None:
    model, good = (
        (file_of(digits), png(np.zeros((600, 600), np.uint8))) if kind == "image" else (file_of(houses), row())
    )
    with serving(model, "--decode", "3", script=STUCK) as server:
        before, body, refused = server.decoders(), b"slow" + bytes(40_000), list[tuple[int, Any]]()
        attacks = [threading.Thread(target=lambda: refused.append(server.ask("/predict", body))) for _ in before]
        for one in attacks:
            one.start()
        while server.ask("/ready")[1] == {"status": "ready"}:
            assert any(one.is_alive() for one in attacks)
        assert server.ask("/ready") == (503, {"status": "busy: all decoders work on slow requests"})
        assert server.ask("/health")[0] == 200
        assert refused == []  # they were answered while it decoded
        for one in attacks:
            one.join()
        reason = "decoding took more than 3 s; send less, or simpler files"
        assert refused == [(422, {"error": reason})] * len(before)
        assert server.ask("/predict", good)[0] == 200
        while server.ask("/ready")[0] != 200:
            pass
        assert set(server.decoders()).isdisjoint(before)
        assert f"kindling_decoders_replaced {len(before)}.0\n" in server.ask("/metrics")[1]
        told = "decoder    killed: one request took more than 3 s; another takes its place\n"
        assert server.stop() == (0, told * len(before))


def test_a_killed_decoder_is_replaced(digits: Run) -> None:
    good = png(np.zeros((600, 600), np.uint8))
    with serving(file_of(digits)) as server:
        for pid in server.decoders():
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():
                pass
        assert server.ask("/predict", good)[0] == 200
        status, error = server.stop()
        assert status == 0
        assert "decoder    ended by signal 9 while it was idle; another takes its place\n" in error


def test_requests_wait_for_a_decoder_only_so_long() -> None:
    from src.kindling.deploy.serving.decode import Refusal
    from src.kindling.deploy.serving.decoders import Decoders
    from src.kindling.deploy.serving.limits import Limits

    async def asked() -> list[Any]:
        decoders = Decoders(0, Limits(queue=1, wait=0.1))
        return await asyncio.gather(*[decoders({}) for _ in range(2)], return_exceptions=True)

    first, second = asyncio.run(asked())
    assert isinstance(first, Refusal)
    assert isinstance(second, Refusal)
    assert (first.status, first.reason) == (503, "no decoder was free within 0.1 s; try again later")
    assert (second.status, second.reason) == (429, "1 wait for a decoder already; try again later")


def test_slow_clients_and_too_many_connections(digits: Run) -> None:
    with serving(file_of(digits), "--patience", "0.5", "--connections", "4") as server:
        for begun in (b"", b"GET /health HTTP/1.1\r\nHost:", HEAD + b"100\r\n\r\nx"):
            answered = server.raw(begun)
            assert answered.startswith(b"HTTP/1.1 408 "), begun
            assert "in time" in answered.decode() or "within 0.5 s" in answered.decode()
        idle = [server.connect() for _ in range(4)]
        assert server.raw(b"").startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        for end in idle:  # each is told that it was too slow
            assert end.recv(1000).startswith(b"HTTP/1.1 408 ")
            end.close()
        assert server.ask("/health")[0] == 200


def test_the_queue_and_the_wait_have_an_end() -> None:
    from src.kindling.deploy.serving.app import Application
    from src.kindling.deploy.serving.decode import Decoded
    from src.kindling.deploy.serving.limits import Limits

    release = threading.Event()

    def ask(x: Any) -> Any:
        release.wait()
        return np.ones((len(x), 1), np.float32)

    spec = SimpleNamespace(kind="table", columns=(), classes=(), target="y")
    model: Any = SimpleNamespace(ask=ask, spec=spec, facts={"input": {}, "output": {"name": "value"}}, prepare=None, name="m",
                                 answers=lambda outputs, sizes: [{"prediction": 1.0} for _ in outputs])  # fmt: skip
    application = Application(model, Limits(batch=1, queue=1, wait=0.2), None, lambda: 0)

    async def rows(*_: Any) -> Decoded:
        return Decoded(np.zeros((1, 1)), False)

    application.inputs._rows = rows  # type: ignore[method-assign]

    async def asked() -> list[tuple[int, str]]:
        running = asyncio.create_task(application.batches.run())

        async def one() -> tuple[int, str]:
            sent: list[Any] = []

            async def receive() -> Any:
                return {"type": "http.request", "body": b"{}", "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
            await application(scope, receive, send)
            return sent[0]["status"], sent[1]["body"].decode()

        first = asyncio.create_task(one())
        while not (application.batches.thread._threads or first.done()):  # until it is being computed
            await asyncio.sleep(0)
        second, third = asyncio.create_task(one()), asyncio.create_task(one())
        found = [await third, await second, await first]
        release.set()
        running.cancel()
        return found

    late = '{"error":"its turn did not come within 0.2 s; try again later"}'
    assert asyncio.run(asked()) == [(429, '{"error":"1 wait already; try again later"}'), (503, late), (503, late)]


def test_the_key(digits: Run) -> None:
    with serving(file_of(digits), "--api-key-env", "KINDLING_KEY", key="much secret") as server:
        for path in ("/predict", "/ready", "/metrics", "/about", "/openapi.json", "/nowhere"):
            for wrong in ("", "Bearer", "Bearer wrong", "Bearer much secrets", "Basic much secret"):
                status, told = server.ask(path, headers={"Authorization": wrong})
                assert (status, list(told)) == (401, ["error"])
        assert server.ask("/metrics")[0] == 200
        assert server.ask("/predict", png())[0] == 200
        server.key = None
        for path in ("/health", "/", "/docs"):
            assert server.ask(path)[0] == 200


# ---------------------------------------------------------------------------------------------------------------
# Ends


def test_sigterm_under_load_loses_no_accepted_request(digits: Run) -> None:
    with serving(file_of(digits)) as server:
        answered, lost, begun = [0] * 16, list[str](), threading.Barrier(17)

        def client(i: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            while True:
                try:
                    connection.request("POST", "/predict", png())
                    response = connection.getresponse()
                    response.read()
                    assert response.status == 200
                except Exception as problem:
                    lost.append(repr(problem))
                    return
                answered[i] += 1
                if answered[i] == 5:
                    begun.wait()
                if response.headers.get("connection") == "close":
                    return

        clients = [threading.Thread(target=client, args=(i,)) for i in range(16)]
        for one in clients:
            one.start()
        begun.wait()
        worker = server.worker()
        status, error = server.stop()
        for one in clients:
            one.join()
    assert lost == []
    assert min(answered) >= 5
    assert (status, error) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_killed_worker_is_replaced_and_nobody_hangs(digits: Run) -> None:
    with serving(file_of(digits)) as server:
        assert server.ask("/predict", png())[0] == 200
        worker = server.worker()
        with server.connect() as waiting:
            waiting.sendall(HEAD + b"100\r\n\r\nx")
            assert server.ask("/health")[0] == 200
            os.kill(worker, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert waiting.recv(1000) == b""
        together(8, lambda _: server.ask("/predict", png()))
        assert server.worker() != worker
        assert server.stop() == (0, "worker     ended by signal 9; another takes its place\n")


def test_a_killed_server_leaves_no_process(digits: Run) -> None:
    server = Server(file_of(digits))
    assert server.ask("/health")[0] == 200
    processes = [server.worker(), *server.decoders()]
    assert len(processes) > 1
    with server.connect() as waiting:
        server.process.kill()
        server.process.communicate()
        assert waiting.recv(1000) == b""  # the worker has closed it, and ends
        for pid in processes:
            with suppress(FileNotFoundError):  # it has ended
                while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
                    pass


# The server, but its first workers are killed before they are ready.
SHAKY = """
import os, signal, sys
from src.kindling.config.command import run_command
from src.kindling.deploy.serving import server as serve
from src.serve import main

real, failures, count = serve.work, int(sys.argv.pop(1)), sys.argv.pop(1)
serve.DELAYS = (0.01, 0.02, 0.03, 0.04, 0.05)

def work(*given):
    with open(count, "a") as file:
        file.write("x")
    if os.path.getsize(count) <= failures:
        print("almost there", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    real(*given)

serve.work = work
run_command(main)
"""


def shaky(model: Path, failures: int, count: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SHAKY, str(failures), str(count), str(model), "--port", "0"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_workers_killed_before_they_are_ready_are_replaced(digits: Run, tmp_path: Path) -> None:
    process = shaky(file_of(digits), 2, tmp_path / "count")
    assert process.stdout
    port = int(re.findall(r":(\d+)/", process.stdout.readline() + process.stdout.readline())[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/ready")  # the socket has listened from the beginning
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1].splitlines() == [
        "almost there",
        "worker     ended by signal 9 before it was ready; another takes its place in 0.01 s",
        "almost there",
        "worker     ended by signal 9 before it was ready; another takes its place in 0.02 s",
    ]
    assert process.returncode == 0


def test_the_server_ends_when_no_worker_becomes_ready(digits: Run, tmp_path: Path) -> None:
    process = shaky(file_of(digits), 99, tmp_path / "count")
    error = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 1
    assert (tmp_path / "count").read_text() == "x" * 6
    assert error[-3:] == [
        "almost there",
        "worker     ended by signal 9 before it was ready, 6 times in a row; it printed last:",
        "    almost there",
    ]


# ---------------------------------------------------------------------------------------------------------------
# Mistakes, and a run without an export


def test_mistakes_are_told_before_anything_starts(digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINDLING_KEY", raising=False)
    path = str(file_of(digits))
    assert mistakes("serve", str(tmp_path / "no.onnx"), "--port", "0") == [f"{tmp_path}/no.onnx: no such file"]
    assert mistakes("serve", "nowhere", "--port", "0")[0].startswith("nowhere: no such run")
    assert mistakes("serve", path, "--host", "0.0.0.0") == [
        "--host 0.0.0.0: others reach that too; name the variable that holds a key for them: --api-key-env KINDLING_KEY"
    ]
    assert mistakes("serve", path, "--api-key-env", "KINDLING_KEY") == [
        "--api-key-env KINDLING_KEY: the variable is not set, or empty; for instance: export KINDLING_KEY=$(openssl rand -hex 16)"
    ]
    assert mistakes("serve", path, "--batch", "0", "--wait", "-1", "--queue", "0") == [
        "--batch: expected more than 0, got 0", "--queue: expected more than 0, got 0", "--wait: expected more than 0, got -1"
    ]  # fmt: skip
    for port in ("80000", "65536", "-1"):
        assert mistakes("serve", "nowhere", "--port", port) == [
            f"--port: expected a number from 0 to 65535, got {port}"
        ]  # before anything is looked for
    assert mistakes("serve", path, "--threads", "5000", "--wait", "inf", "--patience", "nan") == [
        "--threads: expected at most 1,024, got 5000",
        "--wait: expected at most 86,400, got inf",
        "--patience: expected more than 0, got nan",
    ]
    assert mistakes("serve", path, "--max-boddy", "3")[0].startswith(
        "--max-boddy: no such flag; did you mean '--max-body'?"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = mistakes("serve", path, "--port", str(port))
    assert line.startswith(f"--port {port}: cannot be listened at: Address already in use")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    words = [sys.executable, "-m", "src.serve", str(path), "--port", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: not readable as ONNX: ")
    assert "Traceback" not in done.stderr


def test_a_run_without_an_export_is_exported_first(digits: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from src.kindling.deploy.serving.server import exported

    assert exported(str(digits.path)) == file_of(digits)
    before = file_of(digits).read_bytes()
    shutil.rmtree(digits.path / "export")
    assert exported(str(digits.path)) == file_of(digits)
    assert capsys.readouterr().out == f"export     {file_of(digits)}\n"
    assert len(file_of(digits).read_bytes()) == pytest.approx(len(before), abs=200)


# ---------------------------------------------------------------------------------------------------------------
# The page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def expect(found: Any) -> Any:
    from playwright.sync_api import expect

    return expect(found)


@contextmanager
def page_of(browser: Any, server: Server, path: str = "", **options: Any) -> Iterator[Any]:
    """A page, which may ask nobody but the server."""
    page = browser.new_page(bypass_csp=True, **options)  # or its own waiting is refused
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url + path)
    yield page
    assert problems == []
    assert [url for url in asked if not url.startswith((server.url, "blob:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


DROP = """bytes => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "it's seven.png", {type: "image/png"}));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""
PASTE = """bytes => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
    dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
}"""
WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_a_picture_is_dropped_and_the_bars_appear(
    size: dict[str, int], scheme: str, browser: Any, pictures: Server, digits: Run, tmp_path: Path
) -> None:
    x = digits.data().samples.x[7, 0].numpy()
    file = png((x * (255 / 16)).round().astype(np.uint8))
    expected = pictures.ask("/predict", file)[1]
    ranked = sorted(expected["probabilities"].items(), key=lambda item: -item[1])
    with page_of(browser, pictures, viewport=size, color_scheme=scheme) as page:
        page.wait_for_selector("#drawing")
        for way in (DROP, PASTE):
            page.evaluate(way, list(file))
            expect(page.locator("#bars li")).to_have_count(10)
            assert page.text_content("#said") == expected["prediction"]
            assert page.locator("#bars li span:first-child").all_text_contents() == [name for name, _ in ranked]
            assert page.locator("#bars li span:last-child").all_text_contents() == [
                f"{100 * p:.1f} %" for _, p in ranked
            ]
            width = page.locator("#bars .bar i").first.bounding_box()["width"]
            assert width == pytest.approx(
                page.locator("#bars .bar").first.bounding_box()["width"] * ranked[0][1], rel=0.05
            )
            assert " ms in the server, " in page.text_content("#time")
            page.reload()
            page.wait_for_selector("#drawing")  # else the drop may come before the page listens
        page.evaluate(DROP, list(file))
        page.wait_for_selector("#bars li")
        # The command that the page shows does the same.
        (tmp_path / "it's seven.png").write_bytes(file)
        if shutil.which("curl"):
            done = subprocess.run(page.text_content("#curl"), shell=True, cwd=tmp_path, capture_output=True, text=True)
            assert json.loads(done.stdout)["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
        page.screenshot(path=tmp_path / f"picture-{scheme}.png", full_page=True)
        page.evaluate(DROP, [1, 2, 3])
        expect(page.locator("#error")).not_to_be_empty()
        assert page.text_content("#error") == (
            "the picture: is no picture that can be read (PNG, JPEG, BMP, WEBP, TIFF)"
        )


def test_a_picture_is_drawn_by_pointer_and_by_keyboard(browser: Any, pictures: Server, tmp_path: Path) -> None:
    with page_of(browser, pictures, viewport=WIDE) as page:
        page.wait_for_selector("#drawing")
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 128, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + 128, box["y"] + 220, steps=5)
        page.mouse.up()
        page.wait_for_selector("#bars li")
        with page.expect_download() as download:
            page.click("#save")
        drawn = np.asarray(Image.open(download.value.path()).convert("L"))
        assert drawn.shape == (256, 256)
        assert (drawn[60:200, 125:131].min(), drawn[:, :90].max()) == (255, 0)
        said = page.text_content("#bars")
        page.click("#clear")
        page.focus("#canvas")
        page.keyboard.press("Space")
        for key in ["ArrowUp"] * 8 + ["ArrowRight"] * 6:
            page.keyboard.press(key)
        expect(page.locator("#bars")).not_to_have_text(said)
        page.screenshot(path=tmp_path / "drawn.png")


def test_a_form_is_made_from_the_columns(browser: Any, tables: Server, tmp_path: Path) -> None:
    with page_of(browser, tables, viewport=NARROW) as page:
        page.wait_for_selector("#row button")
        assert page.locator("#row label").all_text_contents() == [
            "size",
            "rooms",
            "colourblueredmissing",
            "newtruefalsemissing",
        ]
        page.fill("[name=size]", "3")
        page.fill("[name=rooms]", "")
        page.select_option("[name=colour]", "red")
        page.press("[name=size]", "Enter")
        expect(page.locator("#said")).not_to_be_empty()
        given = {"size": 3, "rooms": None, "colour": "red", "new": True}
        expected = tables.ask("/predict", json.dumps(given).encode())[1]["prediction"]
        assert float(page.text_content("#said")) == pytest.approx(expected, rel=1e-3)
        assert page.text_content("#what") == "price"
        assert json.dumps(given, separators=(",", ":")) in page.text_content("#curl")
        page.screenshot(path=tmp_path / "table.png", full_page=True)
        page.fill("[name=size]", "large")
        page.press("[name=size]", "Enter")
        expect(page.locator("#error")).not_to_be_empty()
        assert page.text_content("#error").startswith("column 'size': 'large' (row 1) is no number")


def test_the_pages_of_a_server_with_a_key_and_the_docs(browser: Any, houses: Run, tmp_path: Path) -> None:
    with serving(file_of(houses), "--api-key-env", "KINDLING_KEY", key="s3cret") as server:
        with page_of(browser, server, viewport=WIDE) as page:
            page.wait_for_selector("#key")
            assert page.locator("main").is_hidden()
            page.keyboard.type("s3cret")  # it has the focus
            page.keyboard.press("Enter")
            page.wait_for_selector("#row button")
            page.click("#row button")
            expect(page.locator("#said")).not_to_be_empty()
            assert '-H "Authorization: Bearer $KEY"' in page.text_content("#curl")
            page.click("nav a")
            page.wait_for_selector("section")
            assert page.locator("h2").all_text_contents()[:2] == ["POST /predict", "POST /predict/batch"]
            commands = page.locator("pre").all_text_contents()
            page.screenshot(path=tmp_path / "docs.png", full_page=True)
        if shutil.which("curl"):
            for command in commands:
                done = subprocess.run(
                    ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "KEY": "s3cret"}
                )
                assert done.stdout, command
                assert '"error"' not in done.stdout, command


def test_a_mask_is_answered_as_the_run_answers_at_the_size_of_its_picture(scenes: Run, browser: Any) -> None:
    data, classes = scenes.data(), scenes.spec.classes
    x = data.samples.x[data.indices["test"][0]]
    with torch.inference_mode():
        expected = scenes.task.decide(scenes.task.answer(x[None]))[0].numpy()
    pixels = (x[0].numpy() * (255 / scenes.spec.white)).round().astype(np.uint8)
    large = png(np.kron(pixels, np.ones((3, 3), dtype=np.uint8)))
    with serving(file_of(scenes)) as server:
        status, told = server.ask("/predict", png(pixels))
        assert status == 200
        assert set(told) == {"prediction", "shares", "milliseconds"}
        (first,) = server.ask("/predict/batch", *form(png(pixels), name="files"))[1]["predictions"]
        assert first["prediction"] == told["prediction"]
        with Image.open(io.BytesIO(b64decode(told["prediction"].partition(",")[2]))) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), expected)
        shares = {name: float((expected == i).mean()) for i, name in enumerate(classes)}
        assert told["shares"] == pytest.approx(shares, abs=1e-6)
        with Image.open(
            io.BytesIO(b64decode(server.ask("/predict", large)[1]["prediction"].partition(",")[2]))
        ) as mask:
            assert mask.size == (3 * expected.shape[1], 3 * expected.shape[0])
        with page_of(browser, server) as page:
            page.wait_for_selector("#drop")
            assert page.text_content("#about") == f"Pictures to a mask of {len(classes)} classes"
            page.evaluate(DROP, list(large))
            page.wait_for_function("document.getElementById('mask').naturalWidth == 96")
            ranked = sorted(shares, key=lambda name: -shares[name])
            assert page.locator("#bars li span:first-child").all_text_contents()[0] == ranked[0]
            boxes = [page.locator(name).bounding_box() for name in ("#below", "#mask")]
            assert boxes[0] == boxes[1]  # the mask lies over the picture
            assert page.evaluate("document.getElementById('below').naturalWidth") == 96
