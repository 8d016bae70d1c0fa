"""CSV and Parquet files: read whole for training, in parts for prediction."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.paths import data_path, open_parquet
from src.kindling.data.tables.encode import as_text, kind_of

PARQUET = (".parquet", ".pq")
UNSUPPORTED = {".xlsx", ".xls", ".ods", ".json", ".jsonl", ".feather", ".arrow", ".h5", ".dta"}
SEPARATORS = {";": "'data.separator=;'", "\t": "data.separator=tab", "|": "'data.separator=|'"}
NAMED_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": r"\s+"}
# Cells in one part: enough for speed, and little memory in comparison with a large table.
CELLS = 1 << 18
# What pandas and pyarrow raise for a file; the first that fits, with the reason.
# NotImplementedError: of pyarrow, for kinds of columns that it cannot read.
UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError)
ERRORS: dict[type[Exception], str] = {
    pd.errors.EmptyDataError: "the file is empty; add a line of column names, and rows",
    pd.errors.ParserWarning: "row 1 has more cells than the header; fix the header, or the rows",
    pd.errors.ParserError: "rows do not fit the header: {}; fix the file, or set data.separator",
    Exception: "cannot be read: {}; replace the file",
}


@dataclass(frozen=True)
class TableFile:
    """A file and its format; Parquet defines most of this itself."""

    path: str
    separator: str | None = None  # or `tab`, `space`; None: a comma, or a tab in `.tsv` and `.tab`
    encoding: str = "utf-8"  # Python's name for it
    decimal: str = "point"  # the decimal mark, or `comma`
    na_values: tuple[str, ...] = ()  # marks of missing values, besides the empty cell, `NA`, …
    default_na: bool = True  # whether `NA` and the like, which may be names of classes, are missing
    key: str = "data.path"  # that names the file

    @property
    def is_parquet(self) -> bool:
        return Path(self.path).suffix.lower() in PARQUET

    @property
    def sep(self) -> str:
        """The separator as pandas takes it."""
        tabs = self.separator is None and {".tsv", ".tab"} & set(Path(self.path).suffixes)
        separator = "tab" if tabs else self.separator or ","
        return NAMED_SEPARATORS.get(separator, separator)

    def read_header(self) -> list[str]:
        """The names of all columns; a column without a name has the name ''."""
        _check_path(self.path, self.key)
        with self._translate_errors():
            if self.is_parquet:
                names = open_parquet(self.path).schema_arrow.names
                return ["" if name == "__index_level_0__" else name for name in names]
            line = self._read_csv(header=None, nrows=1, dtype=str, keep_default_na=False)
        names = [str(name).strip() for name in line.iloc[0]]
        for separator, remedy in SEPARATORS.items():
            if len(names) == 1 and separator in names[0]:
                problem = f"one column, {names[0]!r}, that seems to be separated by {separator!r}"
                raise InputError(f"{self.path}: {problem}; add {remedy}")
        if repeated := [name for name in names if name and names.count(name) > 1]:
            numbers = [str(i) for i, name in enumerate(names, 1) if name == repeated[0]]
            problem = f"the header repeats '{repeated[0]}' (columns {join_names(numbers)})"
            raise InputError(f"{self.path}: {problem}; rename all but one")
        return names

    def read(self, columns: Sequence[str], text: Collection[str] = ()) -> pd.DataFrame:
        """Read some columns of all rows.

        Args:
            columns: names from the header.
            text: those of them to read as text: `007` stays `007`.
        """
        parts = list(self.read_frames(columns, text, rows=1 << 31))
        if not parts or parts[0].empty:
            raise InputError(f"{self.path}: a header and no rows; add rows below it")
        frame = pd.concat(parts) if len(parts) > 1 else parts[0]
        mixed = [name for name in frame if infer_dtype(frame[name]).startswith("mixed")]
        if mixed and not self.is_parquet:  # pandas found text in some rows only
            return self.read(columns, {*text, *mixed})
        return frame

    def read_frames(
        self, columns: Sequence[str], text: Collection[str] = (), rows: int = 0
    ) -> Iterator[pd.DataFrame]:
        """Read as `read`, but in parts of some rows, each indexed by the file's row numbers from 0.

        Without a number of rows, as many as make `CELLS`.
        """
        names = self.read_header()
        rows = rows or max(CELLS // len(names), 2048)
        read = self._read_parquet_parts if self.is_parquet else self._read_csv_parts
        parts, start = read(names, columns, text, rows), 0
        while True:
            with self._translate_errors():
                part = next(parts, None)
            if part is None:
                return
            part.index = pd.RangeIndex(start, start + len(part))
            start += len(part)
            yield part

    def _read_parquet_parts(
        self, names: Sequence[str], columns: Sequence[str], text: Collection[str], rows: int
    ) -> Iterator[pd.DataFrame]:
        for batch in open_parquet(self.path).iter_batches(rows, columns=list(columns)):
            frame = batch.to_pandas(ignore_metadata=True)[list(columns)]
            frame = frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))
            for name in columns:
                if self.na_values and kind_of(frame[name]) == "category":
                    frame[name] = frame[name].mask(frame[name].isin(self.na_values))
                if name in text:
                    frame[name] = as_text(frame[name])
            yield frame

    def _read_csv_parts(
        self, names: Sequence[str], columns: Sequence[str], text: Collection[str], rows: int
    ) -> Iterator[pd.DataFrame]:
        # All columns are parsed, since pandas accepts rows that are too long where some are not.
        unique = [name or i for i, name in enumerate(names)]
        with self._read_csv(
            header=0,
            names=unique,
            dtype={name: str for name in unique if name not in columns or name in text},
            index_col=False,
            decimal="," if self.decimal == "comma" else ".",
            na_values=["", *self.na_values],
            keep_default_na=self.default_na,
            chunksize=rows,
        ) as reader:
            for frame in reader:
                yield frame[list(columns)]

    def _read_csv(self, **options: Any) -> Any:
        options["sep"] = self.sep
        path = data_path(self.path)
        return pd.read_csv(path, encoding=self.encoding, skipinitialspace=True, **options)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn what a library raises over the file into a message."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                warnings.simplefilter("ignore", pd.errors.DtypeWarning)
                yield
        except UnicodeError as error:
            problem = f"not {self.encoding}: {self._describe_encoding(error)}"
            raise InputError(f"{self.path}: {problem}") from None
        except LookupError as error:
            if "encoding" not in str(error):
                raise
            raise InputError(f"data.encoding: {error}; try utf-8, cp1252 or utf-16") from None
        except (*UNREADABLE, pd.errors.ParserWarning) as error:
            reason = str(error).strip().partition("\n")[0]
            reason = reason.removeprefix("Error tokenizing data. C error: ")
            message = next(text for kind, text in ERRORS.items() if isinstance(error, kind))
            raise InputError(f"{self.path}: {message.format(reason)}") from None

    def _describe_encoding(self, error: UnicodeError) -> str:
        content = data_path(self.path).read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "the file is utf-16; add data.encoding=utf-16"
        for number, line in enumerate(content.splitlines(), 1):
            try:
                line.decode(self.encoding)
            except UnicodeDecodeError as found:
                at = found.start
                before = line[max(0, at - 20) : at].decode(self.encoding, "replace")
                problem = f"line {number} has the byte 0x{line[at]:02x} after {before!r}"
                return f"{problem}; for files from Windows, try data.encoding=cp1252"
        return f"{error}; set data.encoding"


def _check_path(path: str, key: str) -> None:
    file = data_path(path)
    problem = ""
    if file.is_dir():
        tables = sorted(p.name for p in file.iterdir() if p.suffix in (".csv", ".tsv", *PARQUET))
        problem = " is a folder; name a file" + (f" in it: {join_names(tables)}" if tables else "")
    elif not file.exists():
        hint = did_you_mean(file.name, [other.name for other in file.parent.glob("*")])
        problem = ": no such file"
        start = "" if str(file) == path else f" (in a config, it starts at the repository: {file})"
        problem += hint or start
    elif file.suffix.lower() in UNSUPPORTED:
        problem = f": {file.suffix} is not supported; save as CSV or Parquet"
    if problem:
        raise InputError(f"{key}: {path}{problem}")
