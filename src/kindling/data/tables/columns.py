"""From the parts of a table file to one float32 matrix, and what each column was found to hold.

src/kindling/data/tables/table.py calls this. The matrix is grown as the parts come, so that a table never stands in memory as a
DataFrame. Rows are counted from 1 in all messages, the header not among them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.errors import InputError
from src.kindling.data.tables.read import Format, frames
from src.kindling.data.tables.values import Kind, as_numbers, as_text, kind_of

if TYPE_CHECKING:
    import pandas as pd

LARGEST = float(np.finfo(np.float32).max)
DATE = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d.*)?"
    r"|(\d{1,2}[ -])?[A-Za-z]{3,9}\.?[ ,-]+(\d{1,2}, ?)?\d{4}"
)


def names_word(key: str, names: Sequence[str]) -> str:
    """`key=[a,b]`, as one word of the command line."""
    if all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in names):
        return f"{key}=[{','.join(names)}]"
    return f"'{key}={json.dumps(list(names), ensure_ascii=False)}'"


class _Changed(Exception):
    """A column holds text in one part of the file and none in another."""


@dataclass
class Content:
    """What a column was found to hold, over all parts of the file.

    Attributes:
        name: its header.
        kind: None while all is missing.
        levels: the places of a text column's values, in the order in which they came.
        first: the row of each level's first appearance, from 1.
        too_large: the rows of infinite numbers and of those that float32 cannot hold: how many, and the first.
    """

    name: str
    kind: Kind | None = None
    levels: dict[str, int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    too_large: tuple[int, int] = (0, 0)

    def take(self, series: pd.Series[Any], start: int, path: str) -> Any:
        """The next rows as float64 `(rows,)`: numbers as they are, text as the places of its levels, missing NaN."""
        kind = kind_of(series)
        if kind == "missing":
            return np.full(len(series), np.nan)
        if kind == "other":
            value = series.dropna().iloc[0]
            raise InputError(f"{path}: column '{self.name}' holds values that are neither numbers nor text, such as "
                             f"{str(value)[:40]!r} ({type(value).__name__}); leave it out: "
                             f"{names_word('data.drop', [self.name])}")  # fmt: skip
        if self.kind not in (None, kind):
            raise _Changed(self.name)
        self.kind = kind
        if kind == "category":
            return self._places(series, start)
        numbers = as_numbers(series)
        if kind == "number":
            with np.errstate(invalid="ignore"):
                wrong = np.flatnonzero(np.abs(numbers) > LARGEST)
            if len(wrong):
                count, first = self.too_large
                self.too_large = (count + len(wrong), first or start + int(wrong[0]) + 1)
        return numbers

    def _places(self, series: pd.Series[Any], start: int) -> Any:
        import pandas as pd

        codes, values = pd.factorize(as_text(series))
        rows = np.unique(codes[codes >= 0], return_index=True)[1]
        rows = np.flatnonzero(codes >= 0)[rows]
        places = np.empty(len(values) + 1)
        places[-1] = np.nan  # a missing value's code is -1
        for code, (value, row) in enumerate(zip(values, rows, strict=True)):
            place = self.levels.setdefault(value, len(self.levels))
            if place == len(self.first):
                self.first.append(start + int(row) + 1)
            places[code] = place
        return places[codes]

    def texts(self, form: Format) -> list[str]:
        """The levels that are no numbers."""
        import pandas as pd

        values = pd.Series(list(self.levels), dtype=object)
        plain = values.str.replace(",", ".") if form.decimal == "comma" else values
        return list(values[pd.to_numeric(plain, errors="coerce").isna()])

    def dates(self, most: int | None = None) -> Any:
        """The levels as dates, missing where one is none; all are read in one way, the day first if it must be."""
        import pandas as pd

        values = pd.Series(list(self.levels)[:most], dtype=object)
        candidates = values.where(values.str.fullmatch(DATE))
        if candidates.isna().all():
            return pd.to_datetime(candidates, utc=True)
        read = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas tells when a format surprises it; here the result decides
            for way in ({"format": "ISO8601"}, {}, {"dayfirst": True}):
                read.append(pd.to_datetime(candidates, errors="coerce", utc=True, **way))
        return max(read, key=lambda found: found.notna().sum())


@dataclass
class Read:
    """A file, read.

    Attributes:
        x: the features `(rows, features)` float32; text as the places of its levels, missing NaN.
        contents: what each column was found to hold, by name.
        apart: the columns that are no features, `(rows,)` float64, by name.
    """

    x: Any
    contents: dict[str, Content]
    apart: dict[str, Any]


def read(path: str, form: Format, features: Sequence[str], apart: Sequence[str], text: Collection[str]) -> Read:
    """Read some columns of a file.

    Args:
        path: the file.
        form: how it is written.
        features: the columns of the matrix.
        apart: those that are to stand beside it.
        text: those that are text, whatever they look like.

    Raises:
        InputError: when the file cannot be read, or has no rows.
    """
    forced = set(text)
    while True:
        try:
            return _read(path, form, features, apart, forced)
        except _Changed as changed:  # rare: begin again, so that its text is what stands in the file
            forced.add(changed.args[0])


def _read(path: str, form: Format, features: Sequence[str], apart: Sequence[str], text: Collection[str]) -> Read:
    contents = {name: Content(name) for name in [*features, *apart]}
    x = np.empty((0, len(features)), dtype=np.float32)
    parts: dict[str, list[Any]] = {name: [] for name in apart}
    rows = 0
    with np.errstate(over="ignore"):  # what float32 cannot hold is counted, and refused later
        for frame in frames(path, form, [*features, *apart], text):
            end = rows + len(frame)
            if end > len(x):
                # The system moves a large block without copying it, so that growing takes no second matrix.
                x.resize((max(end, len(x) * 5 // 4), len(features)), refcheck=False)
            for place, name in enumerate(features):
                x[rows:end, place] = contents[name].take(frame[name], rows, path)
            for name in apart:
                parts[name].append(contents[name].take(frame[name], rows, path))
            rows = end
    if rows == 0:
        raise InputError(f"{path}: a header and no rows; rows are expected below it")
    x.resize((rows, len(features)), refcheck=False)
    return Read(x, contents, {name: np.concatenate(values) for name, values in parts.items()})
