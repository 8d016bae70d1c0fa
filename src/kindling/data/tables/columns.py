"""What is wrong with a table's columns, and what its target is. Rows are counted from 1."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.tables.encode import as_numbers, as_text, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile

if TYPE_CHECKING:
    from src.kindling.data.tables.table import Table

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"
LARGEST = float(np.finfo(np.float32).max)
# Whole numbers are classes when at most so many differ, each in at least so many rows on average.
MAX_CLASSES, MIN_ROWS_PER_CLASS = 20, 5

# What a column has, the remedy for features, and the remedy for a target.
PROBLEMS = {
    "empty": ("no value", "drop them: {drop}", "fill it in"),
    "other": ("neither numbers nor text", "drop them: {drop}", "use another column"),
    "constant": ("only one value", "drop them: {drop}", "at least two different values are needed"),
    "infinite": (
        "infinite numbers, or beyond float32 (3.4e38)",
        "fix the file (an empty cell is a missing value)",
        "fix or remove these rows",
    ),
    "dates": (
        "dates",
        "drop them ({drop}), split by one (data.time={first}), or convert to numbers such as years",
        "convert them to numbers, such as days",
    ),
    "mixed": (
        "numbers mixed with text",
        "fix the file, declare missing values ({marks}), read as text ({text}), or drop ({drop})",
        "fix the file, or use all values as classes: data.kind=classification",
    ),
    "commas": (
        "numbers with commas",
        "add data.decimal=comma, or remove the commas",
        "add data.decimal=comma, or remove the commas",
    ),
}
# What a column of classes or categories may have.
OF_TEXT = ("dates", "mixed", "commas")


def find_problem(column: pd.Series[Any], decimal: str) -> tuple[str, str]:
    """A key of PROBLEMS, empty for a good column, and a detail for the message."""
    kind = kind_of(column)
    if kind in ("missing", "date"):
        return {"missing": "empty", "date": "dates"}[kind], ""
    values = column.dropna()
    if kind == "other":
        return "other", repr(str(values.iloc[0])[:40])
    if len(values) == len(column) and values.nunique() == 1:
        first = values.iloc[0]
        return "constant", f"always {first if kind == 'category' else f'{first:g}'}"
    if kind == "number" and (large := np.abs(as_numbers(column)) > LARGEST).any():
        return "infinite", f"{large.sum():,}, the first in row {large.argmax() + 1}"
    if kind == "category":
        if parse_dates(values.unique()[:1000]).notna().mean() > 0.5:
            return "dates", ""
        texts, commas = find_texts(column, decimal), column.str.fullmatch(COMMA, na=False)
        if 0 < 2 * texts.sum() <= len(values):
            numbers = len(values) - texts.sum()
            detail = f"{numbers:,} numbers and {texts.sum():,} texts, the first"
            return "mixed", f"{detail} {locate(column, texts)}"
        if 2 * commas.sum() > len(values):
            return "commas", f"the first {locate(column, commas)}"
    return "", ""


def find_texts(column: pd.Series[Any], decimal: str) -> pd.Series[bool]:
    """The rows of a text column that hold no number."""
    plain = column.str.replace(",", ".") if decimal == "comma" else column
    return column.notna() & pd.to_numeric(plain, errors="coerce").isna()


def check_features(data: Table, frame: pd.DataFrame, features: Sequence[str]) -> None:
    """Refuse features from which nothing can be learned, with a line for each kind of problem."""
    found: dict[str, dict[str, str]] = {}
    for name in features:
        problem, detail = find_problem(frame[name], data.file.decimal)
        if problem and not (name in data.categories and problem in OF_TEXT):
            found.setdefault(problem, {})[name] = f"{name} ({detail})" if detail else name
    lines = []
    for problem, names in found.items():
        statement, remedy, _ = PROBLEMS[problem]
        texts: list[str] = []
        for name in names if problem == "mixed" else ():
            texts += frame[name][find_texts(frame[name], data.file.decimal)].unique().tolist()
        marks = format_override("data.na_values", [*data.file.na_values, *texts])
        remedy = remedy.format(
            drop=format_override("data.drop", [*data.drop, *names]),
            text=format_override("data.categories", [*data.categories, *names]),
            marks=marks if len(texts) <= 3 else "data.na_values",
            first=next(iter(names)),
        )
        listed = join_names(list(names.values()))
        lines.append(f"{data.file.path}: columns with {statement}: {listed}; {remedy}")
    if lines:
        raise InputError(lines)


def check_column(
    file: TableFile, column: pd.Series[Any], subject: str, ignore: Collection[str] = ()
) -> None:
    """Refuse missing values, and each problem but those to ignore, in a target, group or time."""
    absent = [str(row + 1) for row in np.flatnonzero(column.isna())]
    if absent:
        where = f"{len(absent):,} of {len(column):,} rows (row {join_names(absent, most=3)})"
        raise InputError(f"{subject} has no value in {where}; fill it in, or remove these rows")
    problem, detail = find_problem(column, file.decimal)
    if problem and problem not in ignore:
        statement, _, remedy = PROBLEMS[problem]
        raise InputError(f"{subject} has {statement} ({detail}); {remedy}".replace(" ()", ""))


def locate(column: pd.Series[Any], rows: Any) -> str:
    """The first of some rows, for a message: `'n/k' (row 6)`."""
    first = int(np.argmax(rows))
    return f"{column.iloc[first]!r} (row {first + 1})"


def format_override(key: str, names: Sequence[str]) -> str:
    """`key=[a,b]`, quoted for a shell where necessary."""
    if all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in names):
        return f"{key}=[{','.join(names)}]"
    return f"'{key}={json.dumps(list(names), ensure_ascii=False)}'"


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
        numbers = torch.tensor(values, dtype=torch.float32)
        return numbers.unsqueeze(1), (), f"{decision}: regression"
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
