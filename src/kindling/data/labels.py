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
    from sklearn.preprocessing import MultiLabelBinarizer

    binarizer = MultiLabelBinarizer()
    y = torch.from_numpy(binarizer.fit_transform(rows)).long()
    return y, tuple(binarizer.classes_)
