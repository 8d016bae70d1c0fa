"""A process that decodes what clients send, one request at a time, until its standard input ends.

src/serving/decoders.py starts it, and kills it when a request takes too long. A message is a line of
JSON and as many bytes as its `bytes`. There is no pickle, so a reply cannot run code in the server.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from src.kindling.data.images.prepare import Preparation
from src.kindling.data.spec import Spec
from src.kindling.deploy.serving.decode import Decoded, Refusal, decode_images, decode_rows
from src.kindling.deploy.serving.limits import Limits

try:
    import resource
except ImportError:  # Windows: the server's own time limit remains
    resource = None  # type: ignore[assignment]

Facts = dict[str, Any]


def pack(facts: Facts, *contents: bytes) -> bytes:
    """A message."""
    line = json.dumps(facts | {"bytes": sum(map(len, contents))})
    return b"".join([line.encode(), b"\n", *contents])


def reply(decoded: Decoded) -> bytes:
    """The message for what was decoded."""
    x = np.ascontiguousarray(decoded.x)
    facts = {"type": x.dtype.str, "shape": x.shape, "several": decoded.several, "notes": decoded.notes}
    return pack(facts | {"sizes": decoded.sizes}, x.tobytes())


def answer(work: Callable[[], Decoded]) -> bytes:
    """The reply to a request, whatever comes of it."""
    try:
        return reply(work())
    except Refusal as refusal:
        return pack({"status": refusal.status, "reason": refusal.reason})
    except Exception:
        traceback.print_exc()
        return pack({"status": 500, "reason": "the decoder failed; the server's log has the traceback"})


def limit_cpu(seconds: float) -> None:
    """Let the system end this process after `seconds` more of CPU time, in case the server has died."""
    if resource is not None:
        until = math.ceil(time.process_time() + seconds) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = until if hard == resource.RLIM_INFINITY else min(until, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests; the first message holds the model's facts and the limits."""
    first = json.loads(requests.readline())
    limits, facts = Limits(**first["limits"]), first["facts"]
    columns = Spec.from_plain(facts["spec"]).columns
    prepare = Preparation(**facts["prepare"]) if facts["prepare"] else None
    if prepare is None:
        import pandas  # noqa: F401  # now, and not with the first request
    else:
        Image.init()  # the readers of all formats
    replies.write(pack({"ready": True}))
    replies.flush()
    while line := requests.readline():
        job = json.loads(line)
        content = requests.read(job["bytes"])
        if len(content) < job["bytes"]:  # the server has ended
            return
        limit_cpu(limits.decode)
        if prepare is None:
            done = answer(lambda: decode_rows(content, job["several"], columns, limits))  # noqa: B023
        else:
            files, start = [], 0
            for name, length in job["files"]:
                files.append((name, content[start : start + length]))
                start += length
            done = answer(lambda: decode_images(files, job["several"], prepare, limits))  # noqa: B023
        replies.write(done)
        replies.flush()


def main() -> None:
    for name in ("SIGINT", "SIGTERM"):  # the server ends this process
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's, of what clients send
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # or what a library prints would get between the replies
    try:
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        os._exit(1)  # the server has ended, and flushing at exit would fail again


if __name__ == "__main__":
    main()
