"""A real server process, and files and bytes to send to it."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.kindling.config.compose import ROOT
from src.kindling.runs.run import Run

Headers = dict[str, str]
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
FAULTY = "tests.kindling.deploy.serving.faulty_server"
PREDICT_PATHS = ("/predict", "/predict/batch")
BATCH = PREDICT_PATHS[1]


class Server:
    """A server process.

    Args:
        model: the ONNX file.
        flags: of the command.
        key: sent with every request.
        module: run instead of src.serve.
        environment: variables added to this process's.
    """

    def __init__(
        self,
        model: Path,
        *flags: str,
        key: str | None = None,
        module: str = "src.serve",
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(model), "--port", "0", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KINDLING_KEY": key or "", **environment},
            start_new_session=True,
        )
        self.key = key
        assert self.process.stdout
        assert self.process.stderr
        lines = [self.process.stdout.readline() for _ in range(2)]
        found = re.fullmatch(r"page       (http://127\.0\.0\.1:(\d+)/)\n", lines[1])
        assert found, lines + self.process.stderr.readlines()
        self.url, self.port = found[1], int(found[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def request(
        self,
        path: str,
        body: bytes | None = None,
        headers: Headers | None = None,
    ) -> tuple[int, Any]:
        """The status, and the JSON or the text of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        default = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {**default, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers.get("content-type", "") == "application/json"
        return response.status, json.loads(content) if is_json else content.decode()

    def raw(self, content: bytes, half: bool = False) -> bytes:
        """The bytes that come back until the connection is closed."""
        with self.connect() as end:
            end.sendall(content)
            if half:
                end.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: end.recv(65536), b""))

    def worker(self) -> int:
        return find_children(self.process.pid)[-1]  # the first one is multiprocessing's tracker

    def memory(self) -> float:
        """Of the worker, in MB."""
        metrics = self.request("/metrics")[1]
        found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.M)
        assert found
        return float(found[1]) / 1e6

    def decoders(self) -> list[int]:
        """Of the worker, once it is ready."""
        assert self.request("/ready")[0] == 200
        return find_children(self.worker())

    def stop(self) -> tuple[int, str]:
        """The status and the standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error


def find_children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(child) for child in done.stdout.split()]


@contextmanager
def serve(model: Path, *flags: str, **options: Any) -> Iterator[Server]:
    server = Server(model, *flags, **options)
    try:
        yield server
    finally:
        error = server.stop()[1] if server.process.poll() is None else ""
        assert server.process.returncode == 0
        assert "Traceback" not in error


def file_of(run: Run) -> Path:
    return run.path / "export" / "model.onnx"


def encode(pixels: Any = None, **options: Any) -> bytes:
    """The bytes of an image file; of an 8x8 gray ramp by default."""
    file = io.BytesIO()
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(ramp if pixels is None else pixels).save(file, **{"format": "PNG", **options})
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A part of a PNG."""
    check_sum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check_sum


def black(width: int, height: int) -> bytes:
    """Many pixels of one bit each, in a few kB."""
    rows = zlib.compress(b"\x00" * ((width + 7) // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND")


def scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG with so many empty scans more than usual."""
    usual = encode(np.full((side, side), 99, np.uint8), format="JPEG", progressive=True)
    last = usual.rindex(b"\xff\xda")
    header = usual[last : last + 2 + int.from_bytes(usual[last + 2 : last + 4], "big")]
    return usual[:-2] + count * header + usual[-2:]


def form(*files: bytes, name: str = "file") -> tuple[bytes, Headers]:
    parts = []
    for i, file in enumerate(files):
        head = f'Content-Disposition: form-data; name="{name}"; filename="{i}.png"'
        parts.append(f"--xyz\r\n{head}\r\n\r\n".encode() + file + b"\r\n")
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    return b"".join(parts) + b"--xyz--\r\n", headers


def run_threads(count: int, function: Callable[[int], object]) -> None:
    """Call a function in threads, and raise the first error of any."""
    errors: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            function(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


JPEG = encode(format="JPEG")
LARGE_IMAGE = encode(np.zeros((600, 600), np.uint8))  # decoded by a decoder process
