"""Limits on requests. Each field is a flag of src/serve.py, with this help."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from src.kindling.config.errors import InputError


def _limit(default: float, unit: str, maximum: float, help: str) -> Any:
    return field(default=default, metadata={"unit": unit, "help": help, "maximum": maximum})


@dataclass(frozen=True)
class Limits:
    """Limits of a server; InputError with a line for each value that is not above 0."""

    threads: int = _limit(1, "N", 1024, "CPU threads for one batch; more speed up large nets only")
    batch: int = _limit(64, "N", 10**6, "inputs in one batch of the model")
    max_body: float = _limit(10.0, "MB", 10**4, "size of a request (else 413)")
    max_pixels: int = _limit(20 * 10**6, "N", 10**10, "pixels of an image, before decoding (413)")
    max_total_pixels: int = _limit(
        100 * 10**6, "N", 10**10, "pixels of a request, or --max-pixels where larger (413)"
    )
    max_rows: int = _limit(256, "N", 10**6, "images or rows in one request (413)")
    decode: float = _limit(10.0, "SECONDS", 86_400, "time to decode one request (422)")
    memory: float = _limit(2000.0, "MB", 10**7, "memory of each process that decodes (413)")
    queue: int = _limit(
        1024, "N", 10**6, "inputs that wait for the model, or requests for a decoder (429)"
    )
    wait: float = _limit(10.0, "SECONDS", 86_400, "wait for the model, or for a decoder (503)")
    connections: int = _limit(512, "N", 10**6, "open connections (503)")
    patience: float = _limit(10.0, "SECONDS", 86_400, "time for a client to send a request (408)")

    def __post_init__(self) -> None:
        lines = []
        for limit in fields(self):
            value, maximum = getattr(self, limit.name), limit.metadata["maximum"]
            if not 0 < value <= maximum:  # false for NaN
                expected = f"at most {maximum:,}" if value > maximum else "more than 0"
                flag = limit.name.replace("_", "-")
                lines.append(f"--{flag}: expected {expected}, got {value:g}")
        if lines:
            raise InputError(lines)
