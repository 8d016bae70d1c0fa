"""Kinds and conversions of a table's columns, for training and for rows that come later.

Imports no torch, since the server uses it; pandas is imported in functions only, here and in the
other table files, so that checking a config does not load it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "boolean", "category", "date", "missing", "other"]

# By the names of pandas' `infer_dtype`.
KINDS: dict[str, Kind] = {
    "string": "category",
    "mixed-integer": "category",
    "boolean": "boolean",
    "date": "date",
    "datetime": "date",
    "datetime64": "date",
    "decimal": "number",
    "integer": "number",
    "floating": "number",
    "mixed-integer-float": "number",
}
DATE = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d.*)?"
    r"|(\d{1,2}[ -])?[A-Za-z]{3,9}\.?[ ,-]+(\d{1,2}, ?)?\d{4}"
)


def kind_of(series: pd.Series[Any]) -> Kind:
    """The kind of a column's values; `missing` where there are none."""
    from pandas.api import types

    if series.isna().all():
        return "missing"
    if isinstance(series.dtype, types.CategoricalDtype):
        series = series.cat.categories.to_series()
    return KINDS.get(types.infer_dtype(series, skipna=True), "other")


def as_numbers(series: pd.Series[Any]) -> Any:
    """Numbers, booleans or dates (nanoseconds since 1970) as float64 `(rows,)`, missing as NaN."""
    import pandas as pd

    if kind_of(series) == "date":
        times = pd.to_datetime(series, utc=True).astype("datetime64[ns, UTC]")
        return np.where(times.isna(), np.nan, times.astype("int64").to_numpy(dtype=np.float64))
    if series.dtype == object:
        series = series.map(float, na_action="ignore")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def as_text(series: pd.Series[Any]) -> pd.Series[Any]:
    """The values as text, whole numbers without a fraction; missing values stay missing."""
    import pandas as pd

    def text(value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    if isinstance(series.dtype, pd.StringDtype):
        return series
    return series.astype(object).map(text, na_action="ignore")


def parse_dates(texts: Any) -> Any:
    """Texts as dates, missing where one is none; one format for all, day first only if needed."""
    import pandas as pd

    values = pd.Series(texts, dtype=object)
    candidates = values.where(values.str.fullmatch(DATE))
    if candidates.isna().all():
        return pd.to_datetime(candidates, utc=True)
    parsed = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # pandas warns of formats it guesses; the count decides here
        for options in ({"format": "ISO8601"}, {}, {"dayfirst": True}):
            parsed.append(pd.to_datetime(candidates, errors="coerce", utc=True, **options))
    return max(parsed, key=lambda dates: dates.notna().sum())


def format_override(key: str, names: Sequence[str]) -> str:
    """`key=[a,b]`, quoted for a shell where necessary."""
    if all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in names):
        return f"{key}=[{','.join(names)}]"
    return f"'{key}={json.dumps(list(names), ensure_ascii=False)}'"
