"""Kinds and conversions of a table's columns, and the raw matrix of rows that come later."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.spec import Column

# The names that pandas' `infer_dtype` gives to the kinds of values.
KINDS = {
    "number": ("integer", "floating", "decimal", "mixed-integer-float"),
    "boolean": ("boolean",),
    "category": ("string", "mixed-integer"),
    "date": ("date", "datetime", "datetime64"),
}
DATE = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d.*)?"
    r"|(\d{1,2}[ -])?[A-Za-z]{3,9}\.?[ ,-]+(\d{1,2}, ?)?\d{4}"
)
SHORT = r"\d{1,2}[-/.]\d"  # how a date begins whose day or month is first
DAY, MONTH = r"(?P<day>0?[1-9]|[12]\d|3[01])", r"(?P<month>0?[1-9]|1[0-2])"
YEAR = r"(?P<year>\d{4}|\d{2})(?!\d)"


def kind_of(series: pd.Series[Any]) -> str:
    """A key of KINDS, `missing` for a column without any value, or `other`."""
    if series.isna().all():
        return "missing"
    inferred = infer_dtype(series, skipna=True)
    return next((kind for kind, names in KINDS.items() if inferred in names), "other")


def as_numbers(series: pd.Series[Any]) -> Any:
    """Numbers, booleans or dates (nanoseconds since 1970) as float64 `(rows,)`, missing as NaN."""
    if kind_of(series) == "date":
        series = (pd.to_datetime(series, utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(1)
    elif series.dtype == object:
        series = series.map(float, na_action="ignore")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def as_text(series: pd.Series[Any]) -> pd.Series[Any]:
    """The values as text, whole numbers without a fraction; missing values stay missing."""

    def text(value: Any) -> str:
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value)

    return series.astype(object).map(text, na_action="ignore").astype(object)


def parse_dates(texts: Any, dayfirst: bool) -> Any:
    """Texts as dates, NaT for other text. The order of 12.1.2023 is the same for all texts."""
    values = pd.Series(texts, dtype=object)
    values = values.where(values.str.fullmatch(DATE, na=False))
    order = (DAY, MONTH) if dayfirst else (MONTH, DAY)
    values = values.str.replace(f"^{'[-/.]'.join([*order, YEAR])}", _year_first, regex=True)
    values = values.mask(values.str.match(SHORT, na=False))  # of the other order
    parsed = []
    with warnings.catch_warnings(action="ignore"):  # of formats that pandas guesses
        for options in ({"format": "ISO8601"}, {}):
            parsed.append(pd.to_datetime(values, errors="coerce", utc=True, **options))
    return max(parsed, key=lambda dates: dates.notna().sum())


def _year_first(match: re.Match[str]) -> str:
    year = match["year"]
    if len(year) == 2:
        year = ("20" if year < "69" else "19") + year  # as POSIX reads them
    return f"{year}-{match['month']:0>2}-{match['day']:0>2}"


def encode_frame(
    frame: pd.DataFrame, columns: Sequence[Column], notes: list[str] | None = None
) -> Any:
    """Encode rows as the raw matrix of a batch, `(rows, columns)` float64.

    Categories are matched as text: read them from a file as text, so that `007` does not become 7.

    Args:
        frame: has these columns among others, in any order.
        columns: `spec.columns`.
        notes: receives a line that names the unknown columns, if any.

    Raises:
        InputError: when columns are missing or repeated, or a value is not of the column's kind.
    """
    names, given = [column.name for column in columns], list(frame.columns)
    extra = [str(name) for name in given if name not in names]
    if missing := [name for name in names if name not in given]:
        hint = did_you_mean(missing[0], extra)
        if extra and not hint:
            hint = f"; unknown columns: {join_names(extra)}"
        problem = f"the table lacks {len(missing)} of the {len(names)} columns of the training data"
        raise InputError(f"{problem}: {join_names(missing)}{hint}")
    if repeated := [name for name in names if given.count(name) > 1]:
        raise InputError(f"the table has several columns '{repeated[0]}'; rename all but one")
    if extra and notes is not None:
        notes.append(f"columns that are not in the training data, ignored: {join_names(extra)}")
    x = np.empty((len(frame), len(columns)))
    for i, column in enumerate(columns):
        x[:, i] = _encode(frame[column.name], column)
    return x


def unseen_in(frame: pd.DataFrame, x: Any, columns: Sequence[Column]) -> dict[str, tuple[int, str]]:
    """By column, the number of a frame's rows, encoded as `x`, with unseen categories, and one."""
    found = {}
    for i, column in enumerate(columns):
        values = frame[column.name][x[:, i] < 0].dropna()
        if column.kind == "category" and len(values):
            found[column.name] = len(values), values.iloc[0]
    return found


def _encode(series: pd.Series[Any], column: Column) -> Any:
    if column.kind == "category":
        return pd.Index(list(column.categories), dtype=object).get_indexer(as_text(series))
    kind = kind_of(series)
    if kind in ("number", "boolean", "missing"):
        numbers = as_numbers(series)
    else:
        texts = as_text(series)
        if column.kind == "boolean":
            texts = texts.str.lower().replace({"true": "1", "false": "0"})
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    wrong = series.notna().to_numpy() & ~(np.abs(numbers) <= np.finfo(np.float32).max)
    if column.kind == "boolean":
        wrong |= ~(np.isnan(numbers) | np.isin(numbers, (0, 1)))
    if wrong.any():
        row = series.index[wrong][0] + 1  # a part of a file is indexed by the file's rows
        value = series[wrong].tolist()[0]  # a Python value, not one of numpy
        if isinstance(value, float | int) and column.kind == "number" and math.isfinite(value):
            problem = "is beyond float32 (3.4e38); correct it"
            raise InputError(f"column '{column.name}': {value!r} (row {row}) {problem}")
        expected = f"a {column.kind}; the training data has {column.kind}s there"
        raise InputError(f"column '{column.name}': {value!r} (row {row}) is not {expected}")
    return numbers
