"""The target of a table: one class, several labels, or values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.tables.check import OF_TEXT, check_column
from src.kindling.data.tables.encode import as_numbers, as_text, kind_of

if TYPE_CHECKING:
    from src.kindling.data.tables.table import Table

# Whole numbers are classes when at most so many differ, each in at least so many rows on average.
MAX_CLASSES, MIN_ROWS_PER_CLASS = 20, 5


def build_target(data: Table, frame: pd.DataFrame) -> tuple[Tensor, tuple[str, ...]]:
    """Decide between classes, labels and values, and add a note on it to the data.

    Returns:
        Class numbers `(rows,)`, or labels or values `(rows, targets)`; and the names of the
        classes or labels.

    Raises:
        InputError: when the columns cannot be predicted.
    """
    columns = [frame[name] for name in data.targets]
    if data.labels is not None:
        return _split_labels(data, columns[0].astype(object))
    ignore = OF_TEXT[1:] if data.kind == "classification" else ()
    for column in columns:
        subject = f"{data.file.path}: the target '{column.name}'"
        check_column(data.file, column, subject, ignore)
    y, classes, decision = (_single if len(columns) == 1 else _several)(data, columns)
    change = " (to change it, set data.kind)" if data.kind == "auto" else ""
    data.notes.append(f"target: {decision}{change}")
    return y, classes


def _single(data: Table, columns: list[pd.Series[Any]]) -> tuple[Tensor, tuple[str, ...], str]:
    (column,) = columns
    kind = kind_of(column)
    if data.kind == "regression" and kind == "category":
        problem = f"regression needs numbers, and '{column.name}' has {column.iloc[0]!r}"
        raise InputError(f"data.kind: {problem}; set data.kind=classification")
    values = column.to_numpy(dtype=object) if kind == "category" else as_numbers(column)
    different, first, y, counts = np.unique(
        values, return_index=True, return_inverse=True, return_counts=True
    )
    few = len(different) <= min(MAX_CLASSES, len(values) // MIN_ROWS_PER_CLASS)
    discrete = kind != "number" or (few and bool((different % 1 == 0).all()))
    what = {"category": "texts", "boolean": "truth values"}.get(kind, "numbers")
    decision = f"{column.name}, {len(different):,} different {what}"
    if data.kind == "regression" or (data.kind == "auto" and not discrete):
        y = torch.tensor(values, dtype=torch.float32).unsqueeze(1)
        return y, (), f"{decision}: regression"
    names = as_text(pd.Series(different.astype(bool) if kind == "boolean" else different)).tolist()
    rare = [f"{names[i]} ({counts[i]}, row {first[i] + 1})" for i in np.flatnonzero(counts < 3)]
    if rare:
        problem = f"the target '{column.name}' has classes with fewer than 3 rows, one per split"
        number = ", or predict a number: data.kind=regression" if kind == "number" else ""
        remedy = f"add rows, remove these{number}"
        raise InputError(f"{data.file.path}: {problem}: {join_names(rare)}; {remedy}")
    return torch.from_numpy(y), tuple(names), f"{decision}: classification"


def _several(data: Table, columns: list[pd.Series[Any]]) -> tuple[Tensor, tuple[str, ...], str]:
    for column in columns:
        if kind_of(column) == "category":
            problem = f"the target '{column.name}' is text, such as {column.iloc[0]!r}"
            remedy = "with several targets use numbers, or 0 and 1 for labels"
            raise InputError(f"{data.file.path}: {problem}; {remedy}")
    y = torch.from_numpy(np.stack([as_numbers(column) for column in columns], axis=1))
    names = np.array(data.targets)
    others = names[((y != 0) & (y != 1)).any(dim=0).numpy()].tolist()
    if data.kind == "classification" and others:
        problem = "several targets are labels, with other numbers than 0 and 1 in"
        raise InputError(f"data.kind: {problem}: {join_names(others)}; set data.kind=regression")
    decision = f"{len(names)} columns ({join_names(data.targets)})"
    if others or data.kind == "regression":
        return y.float(), (), f"{decision}: values"
    return y.long(), tuple(data.targets), f"{decision}: labels, any number per row"


def _split_labels(data: Table, texts: pd.Series[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels written as texts such as `red;round`; an empty cell has no label."""
    y, names = as_labels([parted(text, data.labels or "") for text in texts.fillna("")])
    if not names:
        problem = f"the target '{texts.name}' has no label in any row"
        raise InputError(f"{data.file.path}: {problem}; fill in labels")
    decision = f"{len(names):,} labels, any number per row (split by data.labels)"
    data.notes.append(f"target: {texts.name}, {decision}")
    return y, names
