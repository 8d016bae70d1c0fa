"""Random requests to the server, and damaged files for each reader of the server and of predict."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.kindling.deploy.serving.decoders import SPAWN
from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    PREDICT_PATHS,
    Server,
    encode,
    file_of,
    form,
    scans,
)

st = pytest.importorskip("hypothesis.strategies")
from tests.kindling.deploy.serving.fuzz import READERS, mutated, read_file, run_cases  # noqa: E402

# 300 cases in all, or 10,000.
COUNTS = {"requests": 90, "files": 30}
LONG = {"requests": 3000, "files": 1000}
SIZES = [COUNTS, pytest.param(LONG, marks=pytest.mark.long)]
COLORS = np.arange(3 * 40 * 30, dtype=np.uint8).reshape(40, 30, 3)
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
IMAGES = [*(encode(COLORS, format=name) for name in FORMATS), scans(50)]
FORM, FORM_HEADERS = form(*IMAGES)
CHARSETS = ("", "; charset=utf-16", "; charset=punycode", "; charset=undefined", "; boundary=")
ROW = {"size": 3, "rooms": 2.5, "color": "red", "new": True}


def image_bodies() -> Any:
    kinds = [*FORM_HEADERS.values(), "image/png", "", "application/json"]
    types = st.builds(str.__add__, st.sampled_from(kinds), st.sampled_from(CHARSETS))
    bodies = st.one_of(mutated(*IMAGES), mutated(FORM, form(IMAGES[0])[0]), st.binary(max_size=99))
    return st.tuples(bodies, types)


def row_bodies() -> Any:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    texts = st.sampled_from(["1e999", "-0", " 7 ", "1_0", "TRUE", "nan", "\ud800", "١٢", "0x1"])
    values = st.recursive(
        leaves | texts,
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
    )
    names = st.sampled_from([*ROW]) | st.text(max_size=9)
    row = st.dictionaries(names, values, max_size=6).map(lambda changes: {**ROW, **changes})
    given = row | st.lists(row | values, max_size=25) | values
    body = given.map(json.dumps).map(str.encode)
    return st.tuples(st.one_of(body, mutated(json.dumps([ROW] * 3).encode())), st.just(""))


class HealthWatch:
    """Requests /health all the time, and keeps the longest duration."""

    def __init__(self, server: Server) -> None:
        self.server, self.longest, self.done = server, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            start = time.monotonic()
            assert self.server.request("/health")[0] == 200
            self.longest = max(self.longest, time.monotonic() - start)

    def __enter__(self) -> HealthWatch:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.done.set()
        self.thread.join()


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["images", "tables"])
def test_random_requests(kind: str, count: dict[str, int], request: pytest.FixtureRequest) -> None:
    """The server's fixture checks that it has printed no traceback."""
    server: Server = request.getfixturevalue(kind)
    valid = encode() if kind == "images" else json.dumps(ROW).encode()
    assert server.request("/predict", valid)[0] == 200
    before, connection = server.memory(), HTTPConnection("127.0.0.1", server.port, timeout=60)

    def check(case: Any) -> None:
        (body, content_type), path = case
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        content = json.loads(response.read())
        assert response.status in (200, 413, 415, 422), content
        assert (response.status == 200) == ("error" not in content)

    bodies = image_bodies() if kind == "images" else row_bodies()
    with HealthWatch(server) as watch:
        run_cases(count["requests"], check, st.tuples(bodies, st.sampled_from(PREDICT_PATHS)))
    connection.close()
    if count is LONG:  # the short form allows for a busy machine
        assert watch.longest < 1
    assert server.memory() < before + 50
    assert server.request("/predict", valid)[0] == 200


@pytest.fixture(scope="module")
def reader() -> Iterator[ProcessPoolExecutor]:
    """One process for all files, since importing what reads them takes seconds."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        yield pool


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("suffix", READERS)
def test_damaged_files(
    suffix: str, count: dict[str, int], reader: ProcessPoolExecutor, digits: Run, tmp_path: Path
) -> None:
    """Each is read, or refused by a line that names it, and the reader's memory is bounded."""
    frame = pd.DataFrame({"size": range(50), "color": ["red", None] * 25, "day": "2024-01-02"})
    parquet = io.BytesIO()
    frame.to_parquet(parquet)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, index=np.arange(9), prediction=np.zeros((9, 2)))
    contents = {
        ".onnx": [file_of(digits).read_bytes()],
        ".png": IMAGES,
        ".csv": [frame.to_csv().encode()],
        ".parquet": [parquet.getvalue()],
        ".npz": [arrays.getvalue()],
    }
    path = tmp_path / f"file{suffix}"

    def check(content: bytes) -> None:
        assert reader.submit(read_file, path, content).result(timeout=60) == ""

    run_cases(count["files"], check, mutated(*contents[suffix]))
    assert reader.submit(peak_memory).result() < 1500


def peak_memory() -> int:
    """Of this process, in MB; `ru_maxrss` begins with that of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024
