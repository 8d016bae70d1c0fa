"""Checks of a table's columns. Rows are counted from 1, without the header."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.tables.columns import as_numbers, format_override, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile

if TYPE_CHECKING:
    import pandas as pd

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"
LARGEST = float(np.finfo(np.float32).max)


# The problems of whole columns, each with its message.
PROBLEMS = {
    "date": "dates cannot be features: {names}; drop them ({drop}), split by one "
    "(data.time={first}), or convert them to numbers, such as the year",
    "missing": "columns without any value: {names}; drop them: {drop}",
    "constant": "columns with only one value: {names}; drop them: {drop}",
    "large": "infinite numbers, or beyond float32 (3.4e38), in columns: {names}; fix the file "
    "(an empty cell is a missing value)",
}


def describe_mixed(
    column: pd.Series[Any], decimal: str, remedy: Callable[[list[str]], str]
) -> str | None:
    """The message for a column of numbers with some text among them, or None.

    Args:
        column: the column, with its name.
        decimal: the file's decimal mark.
        remedy: the remedies other than fixing the file, given the texts.
    """
    import pandas as pd

    if kind_of(column) != "category":
        return None
    values = pd.Series(column.cat.categories, dtype=object)
    plain = values.str.replace(",", ".") if decimal == "comma" else values
    texts = column.isin(values[pd.to_numeric(plain, errors="coerce").isna()])
    commas = column.isin(values[values.str.fullmatch(COMMA)])
    number, start = column.notna().sum(), f"column '{column.name}' has "
    if 0 < 2 * texts.sum() <= number:
        problem = f"{number - texts.sum():,} numbers and {texts.sum():,} texts, the first "
        place, remedies = locate(column, texts), remedy(column[texts].unique().tolist())
        return f"{start}{problem}{place}; fix the file, {remedies}"
    if 2 * commas.sum() > number:
        problem = f"numbers with commas, the first {locate(column, commas)}"
        return (
            f"{start}{problem}; for decimal commas add data.decimal=comma, else remove the commas"
        )
    return None


def check_complete(subject: str, column: pd.Series[Any]) -> None:
    """Refuse missing values, with the subject of the message."""
    absent = [str(row + 1) for row in np.flatnonzero(column.isna())]
    if absent:
        where = f"{len(absent):,} of {len(column):,} rows (row {join_names(absent, most=3)})"
        raise InputError(f"{subject} has no value in {where}; fill it in, or remove these rows")


def locate(column: pd.Series[Any], rows: Any) -> str:
    """The first of some rows, for a message: `'n/k' (row 6)`."""
    first = int(np.argmax(rows))
    return f"{column.iloc[first]!r} (row {first + 1})"


def is_date(column: pd.Series[Any]) -> bool:
    """Whether a column holds dates, or mostly dates written as text."""
    kind = kind_of(column)
    if kind == "category":
        return bool(parse_dates(column.cat.categories[:1000]).notna().mean() > 0.5)
    return kind == "date"


def find_too_large(column: pd.Series[Any]) -> Any:
    """The places of the numbers that are infinite or that float32 cannot hold."""
    numbers = as_numbers(column) if kind_of(column) == "number" else np.empty(0)
    return np.flatnonzero(np.abs(numbers) > LARGEST)


def format_first(column: pd.Series[Any]) -> str:
    """The first value of a column, for a message."""
    value = column.iloc[0]
    return value if isinstance(value, str) else f"{float(value):g}"


def check_features(
    file: TableFile, columns: Iterable[pd.Series[Any]], categories: list[str], dropped: list[str]
) -> None:
    """Refuse columns from which nothing can be learned.

    Args:
        file: the file.
        columns: the features.
        categories: names of columns that the user declared categories: they may hold any text.
        dropped: the present value of `data.drop`, for the remedies.

    Raises:
        InputError: with a line for each problem.
    """
    lines = []
    found: dict[str, dict[str, str]] = {problem: {} for problem in PROBLEMS}
    for column in columns:
        name, free = str(column.name), column.name in categories
        problem, shown = _find_problem(column, free)
        drop = format_override("data.drop", [*dropped, name])
        if problem:
            found[problem][name] = shown
        elif not free:
            line = describe_mixed(column, file.decimal, partial(_remedy, name, drop))
            lines += [line] if line else []
    for problem, names in found.items():
        if names:
            drop = format_override("data.drop", [*dropped, *names])
            shown = join_names(list(names.values()))
            lines.append(PROBLEMS[problem].format(names=shown, drop=drop, first=next(iter(names))))
    if lines:
        raise InputError([f"{file.path}: {line}" for line in lines])


def _find_problem(column: pd.Series[Any], free: bool) -> tuple[str, str]:
    """A key of PROBLEMS, empty for a good column, and the column as the message shows it."""
    if kind_of(column) == "missing":
        return "missing", str(column.name)
    if not free and is_date(column):
        return "date", str(column.name)
    if len(places := find_too_large(column)):
        return "large", f"{column.name} ({len(places):,}, the first in row {places[0] + 1})"
    if column.notna().all() and column.nunique() == 1:
        return "constant", f"{column.name} (always {format_first(column)})"
    return "", ""


def _remedy(name: str, drop: str, texts: list[str]) -> str:
    values = format_override("data.na_values", texts) if len(texts) <= 3 else "data.na_values"
    text = format_override("data.categories", [name])
    return f"declare missing values ({values}), read it as text ({text}), or drop it ({drop})"
