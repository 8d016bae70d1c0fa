"""Reads a CSV or Parquet file part by part, and says in one line what is wrong with a file that cannot be read.

src/kindling/data/tables/columns.py reads a whole file with it; so does whoever predicts from one. pandas is imported in functions
only, here and in the other table files, so that checking a config does not load it.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError, counted, did_you_mean
from src.kindling.data.data_module import data_path
from src.kindling.data.tables.values import as_text

if TYPE_CHECKING:
    import pandas as pd

PARQUET = (".parquet", ".pq")
OTHERS = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".feather", ".arrow", ".h5", ".sav", ".dta")
SEPARATORS = {";": "'data.separator=;'", "\t": "data.separator=tab", "|": "'data.separator=|'"}
# Cells that are read at once: enough to be quick, and a small share of the memory that a large table takes.
CELLS = 1 << 21


@dataclass(frozen=True)
class Format:
    """How a table is written; Parquet says most of this itself.

    Attributes:
        separator: between the cells; `tab` is the tab. None: a comma, or a tab in `.tsv` and `.tab`.
        encoding: Python's name for it.
        decimal: what parts a number's fraction, `point` or `comma`.
        missing: further marks of a missing value, beside the empty cell and pandas' own (`NA`, `NaN`, `null`, …).
    """

    separator: str | None = None
    encoding: str = "utf-8"
    decimal: str = "point"
    missing: tuple[str, ...] = ()

    def between(self, path: str) -> str:
        """The separator of this file."""
        if self.separator is None:
            return "\t" if {".tsv", ".tab"} & set(Path(path).suffixes) else ","
        return "\t" if self.separator in ("tab", "\\t") else self.separator


def header(path: str, form: Format) -> list[str]:
    """The columns' names, as many as there are columns; a column without a name has the name ''.

    Raises:
        InputError: when there is no such file, or no header that can be used.
    """
    file = data_path(path)
    if not file.exists():
        beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, beside) or f" (a relative path starts at the repository: {file})"
        raise InputError(f"data.path: {path}: no such file{hint}")
    if file.is_dir():
        inside = sorted(other.name for other in file.iterdir() if other.suffix in (".csv", ".tsv", *PARQUET))
        raise InputError(f"data.path: {path} is a folder; name a file" + (f" in it: {counted(inside)}" * bool(inside)))
    if file.suffix.lower() in OTHERS:
        raise InputError(f"data.path: {path}: {file.suffix} files are not read; save it as CSV or Parquet")
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; a line of column names and rows are expected")
    with _told(path, form):
        names = _parquet(path).schema_arrow.names if _is_parquet(path) else _first_line(path, form)
    if len(names) == 1 and not _is_parquet(path):
        for separator, remedy in SEPARATORS.items():
            if separator in names[0]:
                raise InputError(f"{path}: one column, {names[0]!r}; the cells seem to be parted by {separator!r}: "
                                 f"add {remedy}")  # fmt: skip
    twice = list(dict.fromkeys(name for i, name in enumerate(names) if name and name in names[:i]))
    if twice:
        places = [str(i + 1) for i, name in enumerate(names) if name == twice[0]]
        raise InputError(f"{path}: the header names several columns '{twice[0]}' (columns {counted(places)}); "
                         f"give each a name of its own")  # fmt: skip
    return ["" if name == "__index_level_0__" else name for name in names]


def frames(path: str, form: Format, columns: Sequence[str], text: Container[str] = ()) -> Iterator[pd.DataFrame]:
    """Some columns of a file, some rows at a time, their index counting the file's rows from 0.

    Args:
        path: the file.
        form: how it is written.
        columns: names from its header.
        text: those of them that are to be read as text, whatever they look like: `007` is no 7.

    Raises:
        InputError: where the file cannot be read.
    """
    import pandas as pd

    names = header(path, form)
    rows = max(CELLS // max(len(names), 1), 2048)
    if _is_parquet(path):
        with _told(path, form):
            parts = _parquet(path).iter_batches(batch_size=rows, columns=list(columns))
        start = 0
        for batch in _each(parts, path, form):
            frame = batch.to_pandas(ignore_metadata=True)[list(columns)]
            frame.index = pd.RangeIndex(start, start + len(frame))
            start += len(frame)
            for name in columns:
                if form.missing and not pd.api.types.is_numeric_dtype(frame[name].dtype):
                    frame[name] = frame[name].mask(frame[name].isin(form.missing))
                if name in text:
                    frame[name] = as_text(frame[name])
            yield frame
        return
    # All columns are parsed, also those that nobody asked for: else pandas lets rows pass that are too long.
    wanted = [names.index(name) for name in columns]
    others = {i: str for i, name in enumerate(names) if name not in columns or name in text}
    with _told(path, form):
        reader = pd.read_csv(
            data_path(path), sep=form.between(path), encoding=form.encoding, header=0, names=range(len(names)),
            index_col=False, dtype=others, chunksize=rows, low_memory=False, skipinitialspace=True,
            decimal={"point": ".", "comma": ","}[form.decimal], na_values=list(form.missing),
        )  # fmt: skip
    with reader:
        for frame in _each(reader, path, form):
            frame = frame[wanted]
            frame.columns = list(columns)
            yield frame


def _each(parts: Iterator[Any], path: str, form: Format) -> Iterator[Any]:
    """The parts; what goes wrong in reading one is told to the user."""
    while True:
        with _told(path, form):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _is_parquet(path: str) -> bool:
    return Path(path).suffix.lower() in PARQUET


def _parquet(path: str) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow; install it: pip install -e '.[parquet]'") from None
    return ParquetFile(data_path(path), pre_buffer=False)  # a buffer of its own would grow to the file's size


def _first_line(path: str, form: Format) -> list[str]:
    import pandas as pd

    line = pd.read_csv(data_path(path), sep=form.between(path), encoding=form.encoding, header=None, nrows=1, dtype=str,
                       keep_default_na=False, skipinitialspace=True)  # fmt: skip
    return [str(name).strip() for name in line.iloc[0]]


@contextmanager
def _told(path: str, form: Format) -> Iterator[None]:
    """What a library raises over a file, as a line for the user."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty; a line of column names and rows are expected") from None
    except UnicodeError as error:
        raise InputError(_wrong_encoding(path, form, error)) from None
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise InputError(f"data.encoding: {error}; try utf-8, cp1252 or utf-16") from None
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: row 1 has more cells than the header has names; mend the header, or the rows") \
            from None  # fmt: skip
    except pd.errors.ParserError as error:
        message = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise InputError(f"{path}: rows that do not fit the header: {message}; mend the file, or set data.separator") \
            from None  # fmt: skip
    except (OSError, EOFError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: cannot be read: {reason}") from error


def _wrong_encoding(path: str, form: Format, error: UnicodeError) -> str:
    file = data_path(path)
    with file.open("rb") as lines:
        start = lines.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return f"{path}: not {form.encoding}: the file is utf-16; add data.encoding=utf-16"
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            try:
                line.decode(form.encoding)
            except UnicodeError as found:
                place = getattr(found, "start", 0)
                byte = line[place : place + 1]
                return (f"{path}: not {form.encoding}: line {number} has the byte 0x{byte.hex()} after "
                        f"{line[max(0, place - 20) : place].decode(form.encoding, 'replace')!r}; files from Windows "
                        f"often need data.encoding=cp1252")  # fmt: skip
    return f"{path}: not {form.encoding}: {error}; set data.encoding"
