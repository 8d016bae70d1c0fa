"""Problems of a table's columns. Rows are counted from 1, without the header."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.tables.encode import as_numbers, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile

if TYPE_CHECKING:
    from src.kindling.data.tables.table import Table

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"
LARGEST = float(np.finfo(np.float32).max)

# What a column has, the remedy for features, and the remedy for a target.
PROBLEMS = {
    "empty": ("no value", "drop: {drop}", "fill it in"),
    "other": ("neither numbers nor text", "drop: {drop}", "use another column"),
    "constant": ("only one value", "drop: {drop}", "at least two different values are needed"),
    "infinite": (
        "infinite numbers, or beyond float32 (3.4e38)",
        "fix the file (an empty cell is a missing value)",
        "fix or remove these rows",
    ),
    "dates": (
        "dates",
        "drop: {drop}, split by one (data.time={first}), or convert to numbers, such as the year",
        "convert them to numbers, such as days",
    ),
    "mixed": (
        "numbers mixed with text",
        "fix the file, declare missing values ({marks}), read as text ({text}), or drop: {drop}",
        "fix the file, or use all values as classes: data.kind=classification",
    ),
    "commas": ("numbers with commas", *["add data.decimal=comma, or remove the commas"] * 2),
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
        return "constant", f"always {format_value(values.iloc[0])}"
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
    """Refuse features from which nothing can be learned.

    Raises:
        InputError: with a line for each kind of problem.
    """
    found: dict[str, dict[str, str]] = {}
    for name in features:
        problem, detail = find_problem(frame[name], data.file.decimal)
        if problem and not (name in data.categories and problem in OF_TEXT):
            found.setdefault(problem, {})[name] = f"{name} ({detail})" if detail else name
    lines = []
    for problem, names in found.items():
        statement, remedy, _ = PROBLEMS[problem]
        marks: list[str] = []
        if problem == "mixed":
            for name in names:
                marks += frame[name][find_texts(frame[name], data.file.decimal)].unique().tolist()
        remedy = remedy.format(
            drop=format_override("data.drop", [*data.drop, *names]),
            text=format_override("data.categories", [*data.categories, *names]),
            marks=format_override("data.na_values", [*data.file.na_values, *marks])
            if len(marks) <= 3
            else "data.na_values",
            first=next(iter(names)),
        )
        listed = join_names(list(names.values()))
        lines.append(f"{data.file.path}: columns with {statement}: {listed}; {remedy}")
    if lines:
        raise InputError(lines)


def check_column(
    file: TableFile, column: pd.Series[Any], subject: str, ignore: Sequence[str] = ()
) -> None:
    """Refuse a target, group or time with missing values or another problem.

    Args:
        file: the table.
        column: one of it.
        subject: of the message.
        ignore: keys of PROBLEMS that do not matter for it.
    """
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


def format_value(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):g}"


def format_override(key: str, names: Sequence[str]) -> str:
    """`key=[a,b]`, quoted for a shell where necessary."""
    if all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in names):
        return f"{key}=[{','.join(names)}]"
    return f"'{key}={json.dumps(list(names), ensure_ascii=False)}'"
