"""Decode one request into the model's input: what decoding images and rows have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
MAX_LINE = 1000  # characters of a reason or a note


def shorten(line: str) -> str:
    """A line that may quote a client's text, at a readable length."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        reason: one line for the client.
        close: whether the connection closes too, because part of the request was not read.
    """

    def __init__(self, status: int, reason: str, close: bool = False) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.close = status, shorten(reason), close


class Decoded(NamedTuple):
    """The decoded inputs of a request."""

    x: Array  # (n, *raw_shape)
    several: bool = False  # whether the response is a list
    notes: Sequence[str] = ()  # for the client
    sizes: Sequence[Sequence[int]] = ()  # width and height of each image as sent
