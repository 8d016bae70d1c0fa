"""Decode the JSON rows of a request, with bounds on rows and columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from src.kindling.config.errors import InputError
from src.kindling.data.spec import Column
from src.kindling.deploy.serving.decode import Decoded, Refusal, shorten
from src.kindling.deploy.serving.limits import Limits

MAX_UNKNOWN = 100  # columns of a row that the training data did not have


def decode_rows(
    body: bytes | bytearray, several: bool, columns: Sequence[Column], limits: Limits
) -> Decoded:
    """Decode JSON rows as the model takes them, `(rows, columns)`.

    Args:
        body: JSON.
        several: whether a list is required.
        columns: of the training data.
        limits: of rows.

    Raises:
        Refusal: naming the row and the column.
    """
    import pandas as pd

    from src.kindling.data.tables.encode import encode_frame, unseen_in

    given = _parse(body)
    if several and not isinstance(given, list):
        raise Refusal(422, "/predict/batch takes a list of rows")
    rows = given if isinstance(given, list) else [given]
    _check_rows(rows, len(columns), limits.max_rows)
    known = {column.name for column in columns}
    # Unknown columns are needed only by name, for a note or as a hint at a wrong name.
    values = {
        name: pd.Series([row[name] for row in rows]) if name in known else None for name in rows[0]
    }
    frame = pd.DataFrame(values, index=range(len(rows)))
    notes: list[str] = []
    try:
        with np.errstate(all="ignore"):
            x = encode_frame(frame, columns, notes)
    except (InputError, OverflowError) as error:
        raise Refusal(422, str(error)) from None
    for name, (_, example) in unseen_in(frame, x, columns).items():
        notes.append(f"{name}: the training data did not have {example!r}")
    return Decoded(x, isinstance(given, list), [shorten(note) for note in notes])


def _parse(body: bytes | bytearray) -> Any:
    try:
        text = body.decode(json.detect_encoding(body))  # json.loads would accept surrogates
        given = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(given, ensure_ascii=False).encode()
    except RecursionError:
        raise Refusal(422, "the JSON is nested too deeply") from None
    except UnicodeEncodeError as error:
        escape = f"\\u{ord(error.object[error.start]):04x}"
        before = error.object[max(error.start - 40, 0) : error.start]
        reason = f"half of a surrogate pair, {escape}, after {before!r}; send the whole character"
        raise Refusal(422, f"the JSON has {reason}") from None
    except ValueError as error:
        raise Refusal(422, f"the body is not valid JSON: {error}") from None
    return given


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON; send null for a missing value")


def _check_rows(rows: list[Any], num_columns: int, max_rows: int) -> None:
    """Check the number of rows and columns, that all rows have the same columns, and the cells."""
    if len(rows) > max_rows:
        raise Refusal(413, f"{len(rows):,} rows in one request; the maximum is {max_rows:,}")
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise Refusal(422, "expected a row as an object of columns and values, or a list of rows")
    names = rows[0].keys()
    if len(names) > num_columns + MAX_UNKNOWN:
        reason = f"row 1 has {len(names):,} columns; the training data had {num_columns:,}"
        raise Refusal(413, f"{reason}, and the maximum is {MAX_UNKNOWN} more")
    for number, row in enumerate(rows, 1):
        if row.keys() != names:
            name = next(iter(names ^ row.keys()))
            reason = f"column '{name}' is in only one of row 1 and row {number}"
            raise Refusal(422, f"{reason}; send null for a missing value")
        for name, value in row.items():
            if isinstance(value, list | dict):
                reason = "expected a number, a text, true, false or null"
                raise Refusal(422, f"column '{name}' (row {number}): {reason}")
