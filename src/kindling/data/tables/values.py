"""What the values of a table's column are, whether it is read in training or comes later; imports no torch.

src/kindling/data/tables/columns.py reads with it, and so does src/kindling/data/tables/encode.py, also in a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "boolean", "category", "date"]


def kind_of(series: pd.Series[Any]) -> Kind | Literal["missing", "other"]:
    """What the values of a series are."""
    from pandas.api import types

    dtype = series.dtype
    if series.isna().all():
        return "missing"
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_datetime64_any_dtype(dtype):
        return "date"
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return "number"
    kinds: dict[str, Kind] = {
        "string": "category", "boolean": "boolean", "date": "date", "datetime": "date", "datetime64": "date",
        "decimal": "number", "integer": "number", "floating": "number", "mixed-integer-float": "number",
        "mixed-integer": "category",
    }  # fmt: skip
    if isinstance(dtype, types.CategoricalDtype):
        series = series.cat.categories.to_series()
    return kinds.get(types.infer_dtype(series, skipna=True), "other")


def as_numbers(series: pd.Series[Any]) -> Any:
    """Numbers, booleans or dates (nanoseconds since 1970) as float64 `(rows,)`; missing ones are NaN."""
    import pandas as pd

    if kind_of(series) == "date":
        times = pd.to_datetime(series, utc=True).astype("datetime64[ns, UTC]")
        return np.where(times.isna(), np.nan, times.astype("int64").to_numpy(dtype=np.float64))
    if series.dtype == object:
        series = series.map(float, na_action="ignore")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def as_text(series: pd.Series[Any]) -> pd.Series[Any]:
    """The values as text, a whole number without a fraction; missing ones stay missing."""
    import pandas as pd

    def text(value: Any) -> str:
        if isinstance(value, float) and float(value).is_integer():
            return str(int(value))
        return str(value)

    if isinstance(series.dtype, pd.StringDtype):
        return series
    return series.astype(object).map(text, na_action="ignore")
