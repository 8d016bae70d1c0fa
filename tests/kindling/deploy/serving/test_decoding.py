"""Bounds on decoding, and the queues in front of the model and the decoders."""

from __future__ import annotations

import asyncio
import struct
import threading
from typing import Any

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from src.kindling.data.images.prepare import Preparation
from src.kindling.deploy.serving.batches import Batches
from src.kindling.deploy.serving.decode import decode_images, has_more_scans
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from tests.kindling.deploy.serving.server_process import (
    black,
    encode,
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


def test_requests_are_gathered_into_batches() -> None:
    sizes: list[int] = []
    counts = (1, 2, 3, 4, 9, 1)

    def double(x: Any) -> Any:
        sizes.append(len(x))
        return 2 * x

    async def compute() -> list[Any]:
        batches = Batches(double, Limits(batch=8))
        running = asyncio.create_task(batches.run())
        outputs = await asyncio.gather(*[batches.compute(np.full((n, 1), n)) for n in counts])
        running.cancel()
        return outputs

    for n, outputs in zip(counts, asyncio.run(compute()), strict=True):
        assert outputs.tolist() == [[2 * n]] * n
    assert sizes == [6, 4, 9, 1]  # at most 8, in order; a larger request is a batch of its own


def test_requests_wait_for_a_decoder_within_limits() -> None:
    async def request() -> list[Any]:
        decoders = Decoders(0, None, (), Limits(queue=1, wait=0.1))
        return await asyncio.gather(
            *[decoders.decode([], False) for _ in range(2)], return_exceptions=True
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
        running = asyncio.create_task(batches.run())

        async def request() -> Any:
            return await batches.compute(np.zeros((1, 1)))

        first = asyncio.create_task(request())
        while not started.is_set():
            await asyncio.sleep(0.001)
        results = await asyncio.gather(first, request(), request(), return_exceptions=True)
        release.set()
        running.cancel()
        return results

    computing, waiting, refused = asyncio.run(compute())
    assert [error.status_code for error in (computing, waiting, refused)] == [503, 503, 429]
    assert waiting.detail.endswith("within 0.2 s; try again later")
    assert refused.detail.endswith("already wait; try again later")
