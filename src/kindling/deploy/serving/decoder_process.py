"""A process that decodes requests, one at a time, until its standard input ends.

decoders.py starts it, and kills it when a request takes too long. A message is a line of JSON and
as many bytes as its `bytes`. Without pickle, a reply cannot run code in the server.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from src.kindling.data.images.prepare import Preparation
from src.kindling.data.spec import Spec
from src.kindling.deploy.serving.decode import Decoded, Refusal
from src.kindling.deploy.serving.decode_images import decode_images
from src.kindling.deploy.serving.decode_rows import decode_rows
from src.kindling.deploy.serving.limits import Limits

Header = dict[str, Any]


def pack(header: Header, *contents: bytes) -> bytes:
    """A message."""
    line = json.dumps(header | {"bytes": sum(map(len, contents))})
    return b"".join([line.encode(), b"\n", *contents])


def reply(decode: Callable[[], Decoded]) -> bytes:
    """Decode a request, and pack the result or the reason why there is none."""
    try:
        decoded = decode()
        x = np.ascontiguousarray(decoded.x)
        header = decoded._asdict() | {"dtype": x.dtype.str, "shape": x.shape}
        del header["x"]
        return pack(header, x.tobytes())
    except Refusal as refusal:
        return pack({"status": refusal.status, "reason": refusal.reason})
    except Exception:
        traceback.print_exc()
        return pack({"status": 500, "reason": "the decoder failed; see the server's log"})


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Reply to requests; the first message holds the model's metadata and the limits."""
    first = json.loads(requests.readline())
    limits, metadata = Limits(**first["limits"]), first["metadata"]
    columns = Spec.from_plain(metadata["spec"]).columns
    prepare = Preparation(**metadata["prepare"]) if metadata["prepare"] else None
    if prepare is None:
        import pandas  # noqa: F401  # now, and not with the first request
    else:
        Image.init()  # the readers of all formats
    replies.write(pack({"ready": True}))
    replies.flush()
    while line := requests.readline():
        header = json.loads(line)
        content = requests.read(header["bytes"])
        if len(content) < header["bytes"]:  # the server has ended
            return
        if hasattr(signal, "alarm"):  # ends this process, in case the server has died
            signal.alarm(math.ceil(limits.decode) + 1)
        if prepare is None:
            replies.write(reply(partial(decode_rows, content, header["several"], columns, limits)))
        else:
            files, start = [], 0
            for name, length in header["files"]:
                files.append((name, content[start : start + length]))
                start += length
            replies.write(reply(partial(decode_images, files, prepare, limits)))
        replies.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def main() -> None:
    for name in ("SIGINT", "SIGTERM"):  # the server ends this process
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's, about the clients' files
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # or a library's output would get between the replies
    try:
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        os._exit(1)  # the server has ended, and flushing at exit would fail again


if __name__ == "__main__":
    main()
