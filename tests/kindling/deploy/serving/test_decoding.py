"""Bounds on decoding, and the queues in front of the model and the decoders."""

from __future__ import annotations

import asyncio
import pickle
import signal
import struct
import threading
import time
import zlib
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from src.kindling.data.images.prepare import Preparation
from src.kindling.deploy.serving.access import Access
from src.kindling.deploy.serving.app import Application
from src.kindling.deploy.serving.batches import Batches
from src.kindling.deploy.serving.decode import (
    ImageDecoder,
    decode_images,
    has_more_scans,
    peak_pixels,
)
from src.kindling.deploy.serving.decoders import SPAWN, Decoders, _run_limited
from src.kindling.deploy.serving.limits import Limits
from src.kindling.deploy.serving.model import Model
from src.kindling.runs.run import Run
from tests.kindling.deploy.serving.server_process import (
    black,
    chunk,
    encode,
    file_of,
    scans,
)

RESIZE = {"do": "resize", "size": [64], "longest": None, "how": "BILINEAR"}


def prepare(size: int, steps: tuple[Any, ...] = ()) -> Preparation:
    return Preparation(1, size, "squash", whole=bool(steps), max_value=255, steps=steps)


def test_jpeg_scans_are_counted_as_decoders_count() -> None:
    usual = encode(np.full((64, 64), 99, np.uint8), format="JPEG", progressive=True)
    count = usual.count(b"\xff\xda")
    assert count > 1
    assert has_more_scans(usual, count - 1)
    assert not has_more_scans(usual, count)
    start = b"\xff\xda\x00\x08"
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 200 * len(start)) + 200 * start
    for harmless in (usual[:2] + thumbnail + usual[2:], usual + 200 * start):
        assert has_more_scans(harmless, count - 1)
        assert not has_more_scans(harmless, count)
    assert has_more_scans(usual[:2] + thumbnail + scans(100)[2:], 100)


def test_resized_pixels_are_bounded() -> None:
    x = decode_images([("a.png", black(640, 64))], False, prepare(64, (RESIZE,)), Limits()).x
    assert x.shape == (1, 1, 64, 640)
    with pytest.raises(HTTPException) as caught:
        decode_images([("a.png", black(65_536, 1))], False, prepare(64, (RESIZE,)), Limits())
    assert caught.value.status_code == 413
    assert "a.png: 65536 x 1 pixels would be resized to 268,435,456" in caught.value.detail


def test_pixels_of_each_step_are_bounded() -> None:
    pad = {"do": "pad", "border": [1000, 2000, 1000, 2000], "value": 0}
    crop = {"do": "crop", "size": [50, 4000]}
    small = {"do": "resize", "size": [10, 20], "longest": None, "how": "NEAREST"}
    for steps, peak in (
        ((), 64 * 64),
        ((pad,), 2100 * 4200),
        ((pad, small), 2100 * 4200),
        ((crop,), 4000 * 200),
        ((RESIZE,), 64 * 128),
        ((small, RESIZE, pad), 2128 * 4064),
    ):
        assert peak_pixels((100, 200), prepare(64, steps)) == max(peak, 100 * 200)
    assert peak_pixels((10, 10), prepare(64)) == 64 * 64
    # Small files whose prepared images are large count with these.
    many = [("a.png", encode())] * 3
    with pytest.raises(HTTPException, match="3,000,000 pixels in one request"):
        decode_images(
            many, True, prepare(1000), Limits(max_total_pixels=2_000_000, max_pixels=10**6)
        )


def test_texts_of_a_png_are_bounded() -> None:
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(b"a" * 1_000_000))
    for count, refused in ((1, False), (2, True)):
        content = encode()[:33] + count * text + encode()[33:]
        with pytest.raises(HTTPException, match="text") if refused else nullcontext():
            decode_images([("a.png", content)], False, prepare(8), Limits())


def image_decoders(limits: Limits) -> Decoders:
    return Decoders(1, partial(ImageDecoder, prepare(8), limits), limits)


def spin() -> None:
    while True:
        pass


def allocate(size: int) -> int:
    return len(bytearray(size))


def test_decoders_have_a_memory_limit() -> None:
    async def request() -> tuple[Any, int]:
        decoders = image_decoders(Limits(memory=300))
        await decoders.start()
        try:
            with pytest.raises(HTTPException) as caught:
                await decoders.run(allocate, 400_000_000)
            with pytest.raises(HTTPException) as image:
                await decoders.decode("image/png", encode(np.zeros((4000, 4000), np.uint16)), False)
            assert image.value.detail == caught.value.detail
            return caught.value, await decoders.run(allocate, 1000)
        finally:
            await decoders.close()

    error, size = asyncio.run(request())
    assert (error.status_code, size) == (413, 1000)
    assert error.detail == "decoding takes more than 300 MB of memory; send less, or smaller files"


def test_restart_is_no_part_of_the_time_to_decode() -> None:
    async def request() -> int:
        decoders = image_decoders(Limits(decode=0.1))  # starting takes longer
        await decoders.start()
        try:
            with pytest.raises(HTTPException, match=r"took more than 0\.1 s"):
                await decoders.run(time.sleep, 60)
            return await decoders.run(len, b"body")
        finally:
            await decoders.close()

    assert asyncio.run(request()) == 4


def test_processor_time_of_decoders_is_limited() -> None:
    process = SPAWN.Process(target=_run_limited, args=(0.01, spin))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXCPU


def test_large_masks_are_made_in_a_decoder(scenes: Run) -> None:
    application = Application(Model(file_of(scenes), 1), Limits(), Access())
    run = AsyncMock(return_value=["mask"])
    application.decoders.run = run  # type: ignore[method-assign]
    outputs = np.zeros((1, 11, 32, 32), np.float32)
    (small,) = asyncio.run(application._format(outputs, [(32, 32)]))
    assert small["prediction"].startswith("data:image/png;base64,")
    assert asyncio.run(application._format(outputs, [(2000, 1000)])) == ["mask"]
    function, *arguments = run.call_args.args
    (large,) = pickle.loads(pickle.dumps(function))(*arguments)
    assert large["shares"] == small["shares"]


def test_requests_are_gathered_into_batches() -> None:
    sizes: list[int] = []
    counts = (1, 2, 3, 4, 9, 1)

    def double(x: Any) -> Any:
        sizes.append(len(x))
        return 2 * x

    async def compute() -> list[Any]:
        batches = Batches(double, Limits(batch=8))
        return await asyncio.gather(*[batches.compute(np.full((n, 1), n)) for n in counts])

    for n, outputs in zip(counts, asyncio.run(compute()), strict=True):
        assert outputs.tolist() == [[2 * n]] * n
    assert sizes == [6, 4, 9, 1]  # at most 8, in order; a larger request is a batch of its own


def test_requests_wait_for_a_decoder_within_limits() -> None:
    async def request() -> list[Any]:
        decoders = Decoders(0, list, Limits(queue=1, wait=0.1))
        return await asyncio.gather(
            *[decoders.decode("", b"", False) for _ in range(2)], return_exceptions=True
        )

    first, second = asyncio.run(request())
    assert first.status_code == 503
    assert first.detail.endswith("within 0.1 s; try again later")
    assert second.status_code == 429
    assert second.detail.endswith("try again later")


def test_queue_and_wait_are_bounded() -> None:
    started, release = threading.Event(), threading.Event()

    def predict(x: Any) -> Any:
        started.set()
        release.wait()
        return x

    async def compute() -> list[Any]:
        batches = Batches(predict, Limits(batch=1, queue=1, wait=0.2))

        async def request() -> Any:
            return await batches.compute(np.zeros((1, 1)))

        first = asyncio.create_task(request())
        while not started.is_set():
            await asyncio.sleep(0.001)
        results = await asyncio.gather(first, request(), request(), return_exceptions=True)
        release.set()
        return results

    computing, waiting, refused = asyncio.run(compute())
    assert [error.status_code for error in (computing, waiting, refused)] == [503, 503, 429]
    assert waiting.detail.endswith("within 0.2 s; try again later")
    assert refused.detail.endswith("already wait; try again later")
