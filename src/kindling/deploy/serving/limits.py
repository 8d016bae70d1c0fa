"""What a request may take of the server. Each field is a flag of src/serve.py, with the help that stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _limit(default: float, unit: str, about: str, most: float) -> Any:
    return field(default=default, metadata={"unit": unit, "about": about, "most": most})


@dataclass(frozen=True)
class Limits:
    """Whole numbers from 1, and seconds and megabytes above 0; each up to the `most` of its metadata."""

    threads: int = _limit(1, "N", "cores for one batch: more pay for a large net, and cost a small one", 1024)
    batch: int = _limit(64, "N", "inputs that the model takes at once", 1_000_000)
    max_body: float = _limit(10.0, "MB", "of a request (else 413)", 10_000)
    max_pixels: int = _limit(20_000_000, "N", "of a picture, read before it is decoded (413)", 10**10)
    max_total_pixels: int = _limit(
        100_000_000, "N", "of all pictures in one request, or --max-pixels where that is more (413)", 10**10
    )
    max_rows: int = _limit(256, "N", "pictures or rows in one request (413)", 1_000_000)
    decode: float = _limit(10.0, "SECONDS", "that decoding the pictures or rows of one request may take (422)", 86_400)
    queue: int = _limit(1024, "N", "inputs that may wait for the model, or requests for a decoder (429)", 1_000_000)
    wait: float = _limit(10.0, "SECONDS", "that a request may wait for the model, or for a decoder (503)", 86_400)
    connections: int = _limit(512, "N", "open at once (503)", 1_000_000)
    patience: float = _limit(10.0, "SECONDS", "that a client has to send a request (408)", 86_400)
