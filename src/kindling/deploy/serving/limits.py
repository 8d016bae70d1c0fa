"""Limits on what a client may request. Each field is a flag of src/serve.py, with this help."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from src.kindling.config.errors import InputError


def _limit(default: float, unit: str, help: str, maximum: float) -> Any:
    return field(default=default, metadata={"unit": unit, "help": help, "maximum": maximum})


@dataclass(frozen=True)
class Limits:
    """Limits of a server: whole numbers from 1, and seconds and megabytes above 0.

    Raises:
        InputError: with a line for each value out of range.
    """

    threads: int = _limit(
        1, "N", "cores for one batch: more help a large net, not a small one", 1024
    )
    batch: int = _limit(64, "N", "inputs in one batch of the model", 1_000_000)
    max_body: float = _limit(10.0, "MB", "size of a request (else 413)", 10_000)
    max_pixels: int = _limit(20_000_000, "N", "pixels of an image, before decoding (413)", 10**10)
    max_total_pixels: int = _limit(
        100_000_000, "N", "pixels of a request, or --max-pixels where larger (413)", 10**10
    )
    max_rows: int = _limit(256, "N", "images or rows in one request (413)", 1_000_000)
    decode: float = _limit(10.0, "SECONDS", "time to decode one request (422)", 86_400)
    queue: int = _limit(
        1024, "N", "inputs that wait for the model, or requests for a decoder (429)", 1_000_000
    )
    wait: float = _limit(10.0, "SECONDS", "wait for the model, or for a decoder (503)", 86_400)
    connections: int = _limit(512, "N", "open connections (503)", 1_000_000)
    patience: float = _limit(10.0, "SECONDS", "time for a client to send a request (408)", 86_400)

    def __post_init__(self) -> None:
        lines = []
        for limit in fields(self):
            value, maximum = getattr(self, limit.name), limit.metadata["maximum"]
            flag = f"--{limit.name.replace('_', '-')}"
            if not value > 0:  # true for NaN as well
                lines.append(f"{flag}: expected more than 0, got {value:g}")
            elif value > maximum:
                lines.append(f"{flag}: expected at most {maximum:,}, got {value:g}")
        if lines:
            raise InputError(lines)
