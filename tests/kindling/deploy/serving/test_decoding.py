"""Bounds on decoding, and the queues in front of the model and the decoders."""

from __future__ import annotations

import asyncio
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest

from src.kindling.data.images.prepare import Preparation
from src.kindling.deploy.serving.batches import Batches
from src.kindling.deploy.serving.decode import Refusal
from src.kindling.deploy.serving.decode_images import (
    decode_images,
    decode_small_images,
    has_more_scans,
)
from src.kindling.deploy.serving.decoders import Decoders
from src.kindling.deploy.serving.limits import Limits
from tests.kindling.deploy.serving.server_process import (
    JPEG,
    black,
    chunk,
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
    x = decode_images([("a.png", black(640, 64))], prepare(64, (RESIZE,)), Limits()).x
    assert x.shape == (1, 1, 64, 640)
    with pytest.raises(Refusal) as caught:
        decode_images([("a.png", black(65_536, 1))], prepare(64, (RESIZE,)), Limits())
    assert caught.value.status == 413
    assert "a.png: 65536 x 1 pixels would be resized to 268,435,456" in caught.value.reason


def test_only_small_images_are_decoded_in_the_event_loop() -> None:
    def is_decoded(*files: bytes, prepare: Preparation) -> bool:
        named = [("a", file) for file in files]
        return decode_small_images(named, prepare, Limits()) is not None

    small, large, whole = prepare(8), prepare(512), prepare(64, (RESIZE,))
    for file in (encode(), JPEG, black(256, 256)):
        assert is_decoded(file, prepare=small)
    text = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b""))
    texts = encode()[:33] + 2 * text + encode()[33:]
    tiff, webp = encode(format="TIFF"), encode(format="WEBP")
    for file in (black(257, 256), tiff, webp, texts, encode() + b" " * 70_000):
        assert not is_decoded(file, prepare=small)
    assert is_decoded(*[black(100, 100)] * 6, prepare=small)
    assert not is_decoded(*[black(100, 100)] * 7, prepare=small)
    assert not is_decoded(encode(), prepare=large)
    assert is_decoded(black(64, 64), prepare=whole)
    assert not is_decoded(black(64, 1), prepare=whole)


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
        decoders = Decoders(0, {}, Limits(queue=1, wait=0.1))
        return await asyncio.gather(
            *[decoders.decode({}) for _ in range(2)], return_exceptions=True
        )

    first, second = asyncio.run(request())
    assert first.status == 503
    assert first.reason.endswith("within 0.1 s; try again later")
    assert second.status == 429
    assert second.reason.endswith("try again later")


def test_queue_and_wait_are_bounded() -> None:
    release = threading.Event()

    def predict(x: Any) -> Any:
        release.wait()
        return x

    async def compute() -> list[Any]:
        batches = Batches(predict, Limits(batch=1, queue=1, wait=0.2))
        running = asyncio.create_task(batches.run())

        async def request() -> Any:
            return await batches.compute(np.zeros((1, 1)))

        first = asyncio.create_task(request())
        while not batches.thread._threads:  # until it is being computed
            await asyncio.sleep(0)
        results = await asyncio.gather(first, request(), request(), return_exceptions=True)
        release.set()
        running.cancel()
        return results

    computing, waiting, refused = asyncio.run(compute())
    assert (computing.status, waiting.status, refused.status) == (503, 503, 429)
    assert waiting.reason.endswith("within 0.2 s; try again later")
    assert refused.reason.endswith("already wait; try again later")
