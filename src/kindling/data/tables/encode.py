"""A table that comes later, as the raw matrix that a task takes: by what a spec says of the columns alone.

Whoever predicts from a file reads it with src/kindling/data/tables/read.py and encodes each part here; a server encodes the rows
that it is sent. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.errors import InputError, counted, did_you_mean
from src.kindling.data.spec import Column
from src.kindling.data.tables.values import as_numbers, as_text, kind_of

if TYPE_CHECKING:
    import pandas as pd


def encode_frame(frame: pd.DataFrame, columns: Sequence[Column], notes: list[str] | None = None) -> Any:
    """The raw matrix of a table.

    Text is matched as it is written: read a file with `src.kindling.data.tables.read.frames`, naming the categories as text,
    so that `007` does not arrive as 7.

    Args:
        frame: has these columns among its own, in any order.
        columns: `spec.columns`.
        notes: receives a line that names the columns which were not asked for, if there are any.

    Returns:
        An array `(rows, columns)` float32: what a batch holds, and a task takes as a tensor.

    Raises:
        InputError: when columns are missing, or one holds what is no number where the training had numbers.
    """
    names = [column.name for column in columns]
    extra = [str(name) for name in frame.columns if name not in names]
    if lacking := [name for name in names if name not in frame.columns]:
        hint = did_you_mean(lacking[0], extra) or (f"; not asked for: {counted(extra)}" if extra else "")
        raise InputError(f"the table lacks {len(lacking)} of the {len(names)} columns that the training had: "
                         f"{counted(lacking)}{hint}")  # fmt: skip
    if twice := [name for name in names if list(frame.columns).count(name) > 1]:
        raise InputError(f"the table has several columns '{twice[0]}'; give each a name of its own")
    if extra and notes is not None:
        notes.append(f"columns that the training did not have, left out: {counted(extra)}")
    x = np.empty((len(frame), len(columns)), dtype=np.float32)
    for place, column in enumerate(columns):
        x[:, place] = _encoded(frame[column.name], column)
    return x


def unseen_in(frame: pd.DataFrame, x: Any, columns: Sequence[Column]) -> dict[str, tuple[int, str]]:
    """The categories of a frame, encoded as `x`, that the training did not have: how many rows, and one text, by column."""
    found: dict[str, tuple[int, str]] = {}
    for place, column in enumerate(columns):
        if column.kind == "category":
            lost = frame[column.name][(x[:, place] < 0) & frame[column.name].notna().to_numpy()]
            found |= {column.name: (len(lost), lost.iloc[0])} if len(lost) else {}
    return found


def _encoded(series: pd.Series[Any], column: Column) -> Any:
    import pandas as pd

    if column.kind == "category":
        return pd.Index(list(column.levels), dtype=object).get_indexer(as_text(series).astype(object))
    kind = kind_of(series)
    if kind == "missing":
        return np.full(len(series), np.nan)
    if kind in ("number", "boolean"):
        numbers = as_numbers(series)
    else:
        truths = {"true": 1.0, "false": 0.0} if column.kind == "boolean" else {}
        texts = as_text(series).astype(object)
        numbers = pd.to_numeric(texts.map(lambda text: truths.get(text.lower(), text), na_action="ignore"),
                                errors="coerce").to_numpy(dtype=np.float64)  # fmt: skip
    wrong = series.notna().to_numpy() & ~np.isfinite(numbers.astype(np.float32))
    if column.kind == "boolean":
        wrong |= ~(np.isnan(numbers) | (numbers == 0) | (numbers == 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        # A part of a file knows which of the file's rows it is.
        row = first + 1 + (series.index.start if isinstance(series.index, pd.RangeIndex) else 0)
        given = series.iloc[first : first + 1].tolist()[0]  # as Python has it, not as numpy
        raise InputError(f"column '{column.name}': {given!r} (row {row}) is no {column.kind}; the training "
                         f"had {column.kind}s there")  # fmt: skip
    return numbers
