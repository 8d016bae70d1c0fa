"""Labels as texts: their spellings, and several in one text such as `red;round`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from src.kindling.config.errors import join_names


def parted(text: str, separator: str) -> list[str]:
    """The labels of a text such as `red;round`."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def as_labels(rows: Sequence[Sequence[str]]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of each row as 0 and 1 `(rows, labels)`, and their names in order."""
    from sklearn.preprocessing import MultiLabelBinarizer

    binarizer = MultiLabelBinarizer()
    y = torch.from_numpy(binarizer.fit_transform(rows)).long()
    return y, tuple(binarizer.classes_)


def find_lookalikes(names: Iterable[str]) -> list[str]:
    """A note on names that differ only in case or white space, if there are any."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(_fold(name), []).append(repr(name))
    alike = [" and ".join(same) for same in spellings.values() if len(same) > 1]
    problem = f"labels differ only in case or white space: {join_names(alike)}"
    return [f"{problem}; data.merge_labels=true makes them one"] if alike else []


def merge_spellings(texts: Sequence[str]) -> list[str]:
    """The texts, each in the most frequent of the spellings that `find_lookalikes` finds."""
    frequent: dict[str, str] = {}
    for text, _ in Counter(texts).most_common():
        frequent.setdefault(_fold(text), " ".join(text.split()))
    return [frequent[_fold(text)] for text in texts]


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
