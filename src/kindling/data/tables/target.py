"""The target of a table or a list of images: classes, labels or values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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
Target = tuple[Tensor, tuple[str, ...], list[str]]  # values, names of classes or labels, notes


def check_labels(labels: str | None, targets: Sequence[str], kind: TargetKind) -> None:
    """Refuse a separator of labels that is empty, or with several targets, or a regression."""
    if labels is not None and (len(targets) > 1 or kind == "regression" or not labels):
        problem = f"{labels!r} needs to be a separator, with one target and no regression"
        raise InputError(f"data.labels: {problem}; remove it, or change data.target or data.kind")


def build_target(
    file: TableFile,
    columns: Sequence[pd.Series[Any]],
    kind: TargetKind,
    labels: str | None,
    merge: bool = False,
    fewest: int = 3,
) -> Target:
    """Decide between classes, labels and values.

    Args:
        kind, labels, merge: `data.kind`, `data.labels` and `data.merge_labels`.
        fewest: rows that a class needs.

    Returns:
        Class numbers `(rows,)`, or labels or values `(rows, targets)`; the names of the classes or
        labels; and notes on the decision.
    """
    if labels is not None:
        y, names, note = _split_labels(file, columns[0], labels, merge)
        return y, names, [note, *find_lookalikes(names)]
    ignore = OF_TEXT if kind == "classification" else ()
    for column in columns:
        check_column(file, column, f"{file.path}: the target '{column.name}'", ignore)
    if len(columns) > 1:
        y, names, note = _several(file, columns, kind)
    else:
        y, names, note = _single(file, columns[0], kind, merge, fewest)
    note += " (to change it, set data.kind)" * (kind == "auto")
    notes = [note, *find_lookalikes(names)]
    if y.dtype is torch.float64:
        notes.append("target: in float64, since float32 would round it by 0.001 deviations or more")
    return y, names, notes


def as_values(values: Tensor) -> Tensor:
    """Target values `(rows, targets)` float64 in float32, unless that rounds them too much."""
    rounding = (values - values.float()).abs().amax(dim=0)
    return values if bool((rounding > MOST_ROUNDING * values.std(dim=0)).any()) else values.float()


def _single(
    file: TableFile, column: pd.Series[Any], kind: TargetKind, merge: bool, fewest: int
) -> tuple[Tensor, tuple[str, ...], str]:
    found = kind_of(column)
    if kind == "regression" and found == "category":
        problem = f"regression needs numbers, and '{column.name}' has {column.iloc[0]!r}"
        raise InputError(f"data.kind: {problem}; set data.kind=classification")
    values = column.to_numpy(dtype=object) if found == "category" else as_numbers(column)
    if merge and found == "category":
        values = np.array(merge_spellings(column.tolist()), dtype=object)
    different, first, codes, counts = np.unique(
        values, return_index=True, return_inverse=True, return_counts=True
    )
    few = len(different) <= min(MAX_CLASSES, len(values) // MIN_ROWS_PER_CLASS)
    discrete = found != "number" or (few and bool((different % 1 == 0).all()))
    what = {"category": "texts", "boolean": "truth values"}.get(found, "numbers")
    like_numbers = found == "category" and not find_texts(column, file.decimal).any()
    note = f"target: {column.name}, {len(different):,} different {what}"
    if kind == "regression" or (kind == "auto" and not discrete):
        y = as_values(torch.tensor(values, dtype=torch.float64).unsqueeze(1))
        return y, (), f"{note}: regression"
    names = as_text(pd.Series(different.astype(bool) if found == "boolean" else different)).tolist()
    few_rows = np.flatnonzero(counts < fewest)
    if rare := [f"{names[i]} ({counts[i]}, row {first[i] + 1})" for i in few_rows]:
        problem = f"the target '{column.name}' has classes with fewer than 3 rows, one per split"
        number = ", or predict a number: data.kind=regression" if found == "number" else ""
        remedy = f"add rows, remove these{number}"
        raise InputError(f"{file.path}: {problem}: {join_names(rare)}; {remedy}")
    decision = ": classification"
    if like_numbers:
        decision = " that look like numbers: classification; data.kind=regression predicts numbers"
    return torch.from_numpy(codes), tuple(names), note + decision


def _several(
    file: TableFile, columns: Sequence[pd.Series[Any]], kind: TargetKind
) -> tuple[Tensor, tuple[str, ...], str]:
    for column in columns:
        if kind_of(column) == "category":
            problem = f"the target '{column.name}' is text, such as {column.iloc[0]!r}"
            remedy = "with several targets use numbers, or 0 and 1 for labels"
            raise InputError(f"{file.path}: {problem}; {remedy}")
    y = torch.from_numpy(np.stack([as_numbers(column) for column in columns], axis=1))
    names = tuple(str(column.name) for column in columns)
    others = np.array(names)[((y != 0) & (y != 1)).any(dim=0).numpy()].tolist()
    if kind == "classification" and others:
        problem = "several targets are labels, with other numbers than 0 and 1 in"
        raise InputError(f"data.kind: {problem}: {join_names(others)}; set data.kind=regression")
    note = f"target: {len(names)} columns ({join_names(names)})"
    if others or kind == "regression":
        return as_values(y), (), f"{note}: values"
    return y.long(), names, f"{note}: labels, any number per row"


def _split_labels(
    file: TableFile, column: pd.Series[Any], separator: str, merge: bool
) -> tuple[Tensor, tuple[str, ...], str]:
    """Labels written as texts such as `red;round`; an empty cell has no label."""
    from sklearn.preprocessing import MultiLabelBinarizer

    texts = column.astype(object).fillna("")
    rows = [[part.strip() for part in text.split(separator) if part.strip()] for text in texts]
    if merge:
        merged = iter(merge_spellings([label for row in rows for label in row]))
        rows = [[next(merged) for _ in row] for row in rows]
    binarizer = MultiLabelBinarizer()
    y = torch.from_numpy(binarizer.fit_transform(rows)).long()
    names = tuple(binarizer.classes_)
    if not names:
        problem = f"the target '{column.name}' has no label in any row"
        raise InputError(f"{file.path}: {problem}; fill in labels")
    found = f"{len(names):,} labels, any number per row (split by data.labels)"
    return y, names, f"target: {column.name}, {found}"


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
