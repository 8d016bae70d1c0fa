"""Encode rows that come later, by the columns of a spec. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.spec import Column
from src.kindling.data.tables.columns import as_numbers, as_text, kind_of

if TYPE_CHECKING:
    import pandas as pd


def encode_frame(
    frame: pd.DataFrame, columns: Sequence[Column], notes: list[str] | None = None
) -> Any:
    """The raw matrix of a table.

    Categories are matched as text: in a file, `TableFile.read_frames` has to read them as text, so
    that `007` does not become 7.

    Args:
        frame: has these columns among others, in any order.
        columns: `spec.columns`.
        notes: receives a line that names the unknown columns, if any.

    Returns:
        An array `(rows, columns)` float32, as in a batch.

    Raises:
        InputError: when columns are missing or repeated, or a value is not of the column's kind.
    """
    names = [column.name for column in columns]
    extra = [str(name) for name in frame.columns if name not in names]
    if missing := [name for name in names if name not in frame.columns]:
        hint = did_you_mean(missing[0], extra)
        if extra and not hint:
            hint = f"; unknown columns: {join_names(extra)}"
        raise InputError(
            f"the table lacks {len(missing)} of the {len(names)} columns of the training data: "
            f"{join_names(missing)}{hint}"
        )
    if repeated := [name for name in names if list(frame.columns).count(name) > 1]:
        raise InputError(f"the table has several columns '{repeated[0]}'; rename all but one")
    if extra and notes is not None:
        notes.append(f"columns that are not in the training data, ignored: {join_names(extra)}")
    x = np.empty((len(frame), len(columns)), dtype=np.float32)
    for i, column in enumerate(columns):
        x[:, i] = _encode(frame[column.name], column)
    return x


def unseen_in(frame: pd.DataFrame, x: Any, columns: Sequence[Column]) -> dict[str, tuple[int, str]]:
    """Categories of a frame, encoded as `x`, that are not in the training data.

    Returns:
        For each such column, the number of rows and one text.
    """
    found = {}
    for i, column in enumerate(columns):
        if column.kind == "category":
            values = frame[column.name][x[:, i] < 0].dropna()
            if len(values):
                found[column.name] = len(values), values.iloc[0]
    return found


def _encode(series: pd.Series[Any], column: Column) -> Any:
    import pandas as pd

    if column.kind == "category":
        categories = pd.Index(list(column.categories), dtype=object)
        return categories.get_indexer(as_text(series).astype(object))
    kind = kind_of(series)
    if kind == "missing":
        return np.full(len(series), np.nan)
    if kind in ("number", "boolean"):
        numbers = as_numbers(series)
    else:
        texts = as_text(series).astype(object)
        if column.kind == "boolean":
            truths = {"true": 1.0, "false": 0.0}
            texts = texts.map(lambda text: truths.get(text.lower(), text), na_action="ignore")
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    wrong = series.notna().to_numpy() & ~np.isfinite(numbers.astype(np.float32))
    if column.kind == "boolean":
        wrong |= ~(np.isnan(numbers) | np.isin(numbers, (0, 1)))
    if wrong.any():
        first = int(np.argmax(wrong))
        # A part of a file is indexed by the file's rows.
        row = first + 1 + (series.index.start if isinstance(series.index, pd.RangeIndex) else 0)
        value = series.iloc[first : first + 1].tolist()[0]  # a Python value, not one of numpy
        raise InputError(
            f"column '{column.name}': {value!r} (row {row}) is not a {column.kind}; the training "
            f"data has {column.kind}s there"
        )
    return numbers
