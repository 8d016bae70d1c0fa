"""The target of a table or a list of images: classes, labels or values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.tables.columns import OF_TEXT, check_column, find_texts
from src.kindling.data.tables.encode import as_numbers, as_text, kind_of
from src.kindling.data.tables.read import TableFile

# Whole numbers are classes when at most so many differ, each in at least so many rows on average.
MAX_CLASSES, MIN_ROWS_PER_CLASS = 20, 5
MOST_ROUNDING = 1e-3  # of a target value, in standard deviations
TargetKind = Literal["auto", "classification", "regression"]
Decision = tuple[Tensor, tuple[str, ...], str]  # values, names of classes or labels, and a note


@dataclass(frozen=True)
class Target:
    """The options `data.target`, `data.kind`, `data.labels` and `data.merge_labels`.

    Args:
        file: of the columns.
        names: of the columns to predict.
        kind, labels, merge: the other options.
        fewest: rows that a class needs.
    """

    file: TableFile
    names: list[str]
    kind: TargetKind
    labels: str | None
    merge: bool
    fewest: int = 3

    def __post_init__(self) -> None:
        several = len(self.names) > 1
        if self.labels is not None and (several or self.kind == "regression" or not self.labels):
            problem = f"{self.labels!r} needs to be a separator, with one target and no regression"
            remedy = "remove it, or change data.target or data.kind"
            raise InputError(f"data.labels: {problem}; {remedy}")

    def read(self, frame: pd.DataFrame, notes: list[str]) -> dict[str, Any]:
        """Decide between classes, labels and values, with a note; the fields of `Samples`."""
        columns = [frame[name] for name in self.names]
        if self.labels is not None:
            y, classes, note = self._split_labels(columns[0], self.labels)
        else:
            ignore = OF_TEXT if self.kind == "classification" else ()
            for column in columns:
                subject = f"{self.file.path}: the target '{column.name}'"
                check_column(self.file, column, subject, ignore)
            y, classes, note = self._several(columns) if columns[1:] else self._single(columns[0])
            note += " (to change it, set data.kind)" * (self.kind == "auto")
        notes += [note, *find_lookalikes(classes)]
        if y.dtype is torch.float64:
            rounding = "float32 would round it by 0.001 deviations or more"
            notes.append(f"target: in float64, since {rounding}")
        targets = tuple(self.names) if columns[1:] and not classes else ()
        return {"y": y, "classes": classes, "target": ", ".join(self.names), "targets": targets}

    def _single(self, column: pd.Series[Any]) -> Decision:
        found = kind_of(column)
        if self.kind == "regression" and found == "category":
            problem = f"regression needs numbers, and '{column.name}' has {column.iloc[0]!r}"
            raise InputError(f"data.kind: {problem}; set data.kind=classification")
        values = column.to_numpy(dtype=object) if found == "category" else as_numbers(column)
        if self.merge and found == "category":
            values = np.array(merge_spellings(column.tolist()), dtype=object)
        different, first, codes, counts = np.unique(
            values, return_index=True, return_inverse=True, return_counts=True
        )
        few = len(different) <= min(MAX_CLASSES, len(values) // MIN_ROWS_PER_CLASS)
        discrete = found != "number" or (few and bool((different % 1 == 0).all()))
        what = {"category": "texts", "boolean": "truth values"}.get(found, "numbers")
        like_numbers = found == "category" and not find_texts(column, self.file.decimal).any()
        note = f"target: {column.name}, {len(different):,} different {what}"
        if self.kind == "regression" or (self.kind == "auto" and not discrete):
            y = as_values(torch.tensor(values, dtype=torch.float64).unsqueeze(1))
            return y, (), f"{note}: regression"
        different = different.astype(bool) if found == "boolean" else different
        names = as_text(pd.Series(different)).tolist()
        few_rows = np.flatnonzero(counts < self.fewest)
        if rare := [f"{names[i]} ({counts[i]}, row {first[i] + 1})" for i in few_rows]:
            subject = f"the target '{column.name}'"
            problem = f"{subject} has classes with fewer than 3 rows, one per split"
            number = ", or predict a number: data.kind=regression" if found == "number" else ""
            remedy = f"add rows, remove these{number}"
            raise InputError(f"{self.file.path}: {problem}: {join_names(rare)}; {remedy}")
        decision = f"{note}: classification"
        if like_numbers:
            alike = f"{note} that look like numbers: classification"
            decision = f"{alike}; data.kind=regression predicts numbers"
        return torch.from_numpy(codes), tuple(names), decision

    def _several(self, columns: Sequence[pd.Series[Any]]) -> Decision:
        for column in columns:
            if kind_of(column) == "category":
                problem = f"the target '{column.name}' is text, such as {column.iloc[0]!r}"
                remedy = "with several targets use numbers, or 0 and 1 for labels"
                raise InputError(f"{self.file.path}: {problem}; {remedy}")
        y = torch.from_numpy(np.stack([as_numbers(column) for column in columns], axis=1))
        names = tuple(str(column.name) for column in columns)
        others = np.array(names)[((y != 0) & (y != 1)).any(dim=0).numpy()].tolist()
        if self.kind == "classification" and others:
            problem = "several targets are labels, with other numbers than 0 and 1 in"
            listed = join_names(others)
            raise InputError(f"data.kind: {problem}: {listed}; set data.kind=regression")
        note = f"target: {len(names)} columns ({join_names(names)})"
        if others or self.kind == "regression":
            return as_values(y), (), f"{note}: values"
        return y.long(), names, f"{note}: labels, any number per row"

    def _split_labels(self, column: pd.Series[Any], separator: str) -> Decision:
        """Labels written as texts such as `red;round`; an empty cell has no label."""
        from sklearn.preprocessing import MultiLabelBinarizer

        texts = column.astype(object).fillna("")
        rows = [[part.strip() for part in text.split(separator) if part.strip()] for text in texts]
        if self.merge:
            merged = iter(merge_spellings([label for row in rows for label in row]))
            rows = [[next(merged) for _ in row] for row in rows]
        binarizer = MultiLabelBinarizer()
        y = torch.from_numpy(binarizer.fit_transform(rows)).long()
        names = tuple(binarizer.classes_)
        if not names:
            problem = f"the target '{column.name}' has no label in any row"
            raise InputError(f"{self.file.path}: {problem}; fill in labels")
        found = f"{len(names):,} labels, any number per row (split by data.labels)"
        return y, names, f"target: {column.name}, {found}"


def as_values(values: Tensor) -> Tensor:
    """Target values `(rows, targets)` float64 in float32, unless that rounds them too much."""
    rounding = (values - values.float()).abs().amax(dim=0)
    return values if bool((rounding > MOST_ROUNDING * values.std(dim=0)).any()) else values.float()


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
