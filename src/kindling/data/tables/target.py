"""The target of a table: one class, several labels, or values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.tables.check import (
    check_complete,
    describe_mixed,
    find_too_large,
    format_first,
    is_date,
)
from src.kindling.data.tables.columns import as_numbers, kind_of
from src.kindling.data.tables.read import TableFile

if TYPE_CHECKING:
    import pandas as pd

TargetKind = Literal["auto", "classification", "regression"]

# Whole numbers are classes when at most so many differ, each in at least so many rows on average.
MAX_CLASSES, MIN_ROWS_PER_CLASS = 20, 5


class Target(NamedTuple):
    """A target as tensors, the names of its classes or labels, and a note on the decision."""

    y: Tensor  # class numbers (rows,); labels or values (rows, targets)
    classes: tuple[str, ...]
    note: str


def build_target(
    file: TableFile, columns: Sequence[pd.Series[Any]], kind: TargetKind, labels: str | None
) -> Target:
    """Decide between classes, labels and values, for one column or several.

    Raises:
        InputError: when the columns cannot be predicted.
    """
    if labels is not None:
        return _split_labels(file, columns[0], labels)
    for column in columns:
        _check_values(file, column, kind)
    return _several(file, columns, kind) if len(columns) > 1 else _single(file, columns[0], kind)


def _single(file: TableFile, column: pd.Series[Any], kind: TargetKind) -> Target:
    found = kind_of(column)
    if kind == "regression" and found == "category":
        problem = f"regression needs numbers, and '{column.name}' has {column.iloc[0]!r}"
        raise InputError(f"data.kind: {problem}; set data.kind=classification")
    values = column.to_numpy(dtype=object) if found == "category" else as_numbers(column)
    different, first, y, counts = np.unique(
        values, return_index=True, return_inverse=True, return_counts=True
    )
    if found == "category":
        what, names = "texts", list(different)
    elif found == "boolean":
        what, names = "truth values", ["True" if value else "False" for value in different]
    else:
        what, names = "numbers", [str(int(v)) if v % 1 == 0 else f"{v:g}" for v in different]
    classes = kind == "classification"
    if kind == "auto":
        few = len(different) <= min(MAX_CLASSES, len(values) // MIN_ROWS_PER_CLASS)
        classes = found != "number" or (few and bool((different % 1 == 0).all()))
    decision = "classification" if classes else "regression"
    note = _format_note(f"{column.name}, {len(different):,} different {what}: {decision}", kind)
    if not classes:
        return Target(torch.tensor(values, dtype=torch.float32).unsqueeze(1), (), note)
    rare = [f"{names[i]} ({counts[i]}, row {first[i] + 1})" for i in np.flatnonzero(counts < 3)]
    if rare:
        problem = f"the target '{column.name}' has classes with fewer than 3 rows, one per split"
        number = ", or predict a number: data.kind=regression" if found == "number" else ""
        remedy = f"add rows, remove these{number}"
        raise InputError(f"{file.path}: {problem}: {join_names(rare)}; {remedy}")
    return Target(torch.from_numpy(y), tuple(names), note)


def _several(file: TableFile, columns: Sequence[pd.Series[Any]], kind: TargetKind) -> Target:
    names = [str(column.name) for column in columns]
    for column in columns:
        if kind_of(column) == "category":
            problem = f"the target '{column.name}' is text, such as {column.iloc[0]!r}"
            remedy = "with several targets use numbers, or 0 and 1 for labels"
            raise InputError(f"{file.path}: {problem}; {remedy}")
    table = np.stack([as_numbers(column) for column in columns], axis=1)
    others = [name for name, y in zip(names, table.T, strict=True) if not np.isin(y, (0, 1)).all()]
    if kind == "classification" and others:
        problem = f"several targets are labels, and {file.path} has other numbers than 0 and 1 in"
        raise InputError(f"data.kind: {problem}: {join_names(others)}; set data.kind=regression")
    labels = not others and kind != "regression"
    what = "labels, any number per row" if labels else "values"
    note = _format_note(f"{len(names)} columns ({join_names(names)}): {what}", kind)
    y = torch.from_numpy(table)
    return Target(y.long(), tuple(names), note) if labels else Target(y.float(), (), note)


def _split_labels(file: TableFile, column: pd.Series[Any], separator: str) -> Target:
    """Labels written as texts such as `red;round`; an empty cell has no label."""
    texts = column.astype(object)
    y, names = as_labels([parted(t, separator) if isinstance(t, str) else [] for t in texts])
    if not names:
        problem = f"the target '{column.name}' has no label in any row"
        raise InputError(f"{file.path}: {problem}; fill in labels")
    note = (
        f"target: {column.name}, {len(names):,} labels, any number per row (split by data.labels)"
    )
    return Target(y, names, note)


def _format_note(decision: str, kind: TargetKind) -> str:
    return f"target: {decision}" + " (to change it, set data.kind)" * (kind == "auto")


def _check_values(file: TableFile, column: pd.Series[Any], kind: TargetKind) -> None:
    """Refuse missing, mixed, too large and constant values, and dates."""
    problem = f"{file.path}: the target '{column.name}'"
    check_complete(problem, column)
    if is_date(column):
        raise InputError(f"{problem} holds dates; convert them to numbers, such as days")
    remedy = "or use all values as classes: data.kind=classification"
    line = describe_mixed(column, file.decimal, lambda _: remedy)
    if line and kind != "classification":
        raise InputError(f"{file.path}: {line}")
    if len(large := find_too_large(column)):
        where = f"in {len(large):,} rows, the first row {large[0] + 1}"
        problem += f" is infinite, or beyond float32 (3.4e38), {where}"
        raise InputError(f"{problem}; fix or remove these rows")
    if column.nunique() == 1:
        problem += f" is {format_first(column)!r} in every row"
        raise InputError(f"{problem}; at least two different values are needed")
