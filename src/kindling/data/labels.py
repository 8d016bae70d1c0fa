"""Labels of which a sample may have any number, written in one text such as `red;round`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def parted(text: str, separator: str) -> list[str]:
    """The labels of a text such as `red;round`."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def as_labels(rows: Sequence[Sequence[str]]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of each row as 0 and 1 `(rows, labels)`, and their names in order."""
    names = tuple(sorted({label for row in rows for label in row}))
    number = {name: i for i, name in enumerate(names)}
    y = torch.zeros(len(rows), len(names), dtype=torch.int64)
    for i, row in enumerate(rows):
        y[i, [number[label] for label in row]] = 1
    return y, names
