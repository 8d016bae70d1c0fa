"""Reading of CSV and Parquet files: whole for training, in parts for prediction."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.data_module import data_path
from src.kindling.data.tables.columns import as_numbers, as_text, format_override, kind_of

if TYPE_CHECKING:
    import pandas as pd

PARQUET = (".parquet", ".pq")
UNSUPPORTED = (
    *(".xlsx", ".xls", ".ods", ".json", ".jsonl"),
    *(".feather", ".arrow", ".h5", ".sav", ".dta"),
)
SEPARATORS = {";": "'data.separator=;'", "\t": "data.separator=tab", "|": "'data.separator=|'"}
# Cells in one part: enough for speed, and little memory in comparison with a large table.
CELLS = 1 << 18


@dataclass(frozen=True)
class TableFile:
    """A file and its format; Parquet defines most of this itself.

    Attributes:
        path: the file.
        separator: between cells, `tab` for a tab; None: a comma, or a tab in `.tsv` and `.tab`.
        encoding: Python's name for it.
        decimal: the decimal mark, `point` or `comma`.
        na_values: marks of missing values, besides the empty cell, `NA`, `null` and the like.
    """

    path: str
    separator: str | None = None
    encoding: str = "utf-8"
    decimal: str = "point"
    na_values: tuple[str, ...] = ()

    @property
    def is_parquet(self) -> bool:
        return Path(self.path).suffix.lower() in PARQUET

    def read_header(self) -> list[str]:
        """The names of all columns; a column without a name has the name ''.

        Raises:
            InputError: when there is no such file, or no usable header.
        """
        _check_path(self.path)
        with self._translate_errors():
            if self.is_parquet:
                names = self._open_parquet().schema_arrow.names
            else:
                line = self._read_csv(header=None, nrows=1, dtype=str, keep_default_na=False)
                names = [str(name).strip() for name in line.iloc[0]]
        for separator, remedy in SEPARATORS.items():
            if len(names) == 1 and separator in names[0] and not self.is_parquet:
                problem = f"one column, {names[0]!r}, that seems to be separated by {separator!r}"
                raise InputError(f"{self.path}: {problem}; add {remedy}")
        for name in names:
            if name and names.count(name) > 1:
                places = join_names([str(i) for i, other in enumerate(names, 1) if other == name])
                problem = f"the header repeats '{name}' (columns {places})"
                raise InputError(f"{self.path}: {problem}; rename all but one")
        return ["" if name == "__index_level_0__" else name for name in names]

    def read_frames(
        self, columns: Sequence[str], text: Collection[str] = ()
    ) -> Iterator[pd.DataFrame]:
        """Read some columns in parts, each indexed by the file's row numbers from 0.

        Args:
            columns: names from the header.
            text: those of them to read as text, whatever they contain: `007` stays `007`.

        Raises:
            InputError: where the file cannot be read.
        """
        import pandas as pd

        names = self.read_header()
        rows = max(CELLS // len(names), 2048)
        parts = self._split(names, columns, text, rows)
        start = 0
        while True:
            with self._translate_errors():
                part = next(parts, None)
            if part is None:
                return
            part.index = pd.RangeIndex(start, start + len(part))
            start += len(part)
            yield part

    def read(
        self, features: Sequence[str], others: Sequence[str], text: Collection[str]
    ) -> pd.DataFrame:
        """Read some columns as a whole.

        Args:
            features: columns whose numbers become float32.
            others: columns whose numbers become float64.
            text: those of both to read as text.

        Returns:
            A frame of numbers, nullable booleans, dates, and categories in order of appearance.

        Raises:
            InputError: when the file cannot be read, has no rows, or values of no known kind.
        """
        import pandas as pd
        from pandas.api.types import infer_dtype

        columns = [*features, *others]
        # Of a Parquet file each column is read for itself, which takes the least memory.
        groups = [[name] for name in columns] if self.is_parquet else [columns]
        frame = pd.concat([self._read_whole(group, features, text) for group in groups], axis=1)
        objects = [name for name in frame if frame[name].dtype == object]
        mixed = [name for name in objects if infer_dtype(frame[name]).startswith("mixed")]
        if mixed and not self.is_parquet:  # text in some parts only: keep all as it is written
            return self.read(features, others, {*text, *mixed})
        for name in frame:
            if frame[name].dtype.kind != "f":
                frame[name] = self._normalize(frame[name])
        return frame

    def _read_whole(
        self, columns: Sequence[str], features: Sequence[str], text: Collection[str]
    ) -> pd.DataFrame:
        import pandas as pd

        parts = []
        for part in self.read_frames(columns, text):
            numbers = [name for name in part if name in features and part[name].dtype.kind in "iuf"]
            with np.errstate(over="ignore"):  # the checks refuse what float32 cannot hold
                parts.append(part.astype(dict.fromkeys(numbers, np.float32)))
        if not any(len(part) for part in parts):
            raise InputError(f"{self.path}: a header and no rows; add rows below it")
        return pd.concat(parts)

    def _normalize(self, series: pd.Series[Any]) -> Any:
        import pandas as pd

        match kind_of(series):
            case "category":
                return pd.Categorical.from_codes(*pd.factorize(as_text(series)))
            case "boolean":
                return series.astype("boolean")
            case "number":
                return as_numbers(series)
            case "other":
                value = series.dropna().iloc[0]
                problem = f"{str(value)[:40]!r} ({type(value).__name__}) is neither number nor text"
                drop = format_override("data.drop", [str(series.name)])
                raise InputError(f"{self.path}: column '{series.name}': {problem}; drop it: {drop}")
        return series

    def _split(
        self, names: Sequence[str], columns: Sequence[str], text: Collection[str], rows: int
    ) -> Iterator[pd.DataFrame]:
        if self.is_parquet:
            for batch in self._open_parquet().iter_batches(rows, columns=list(columns)):
                frame = batch.to_pandas(ignore_metadata=True)
                for name in columns:
                    if self.na_values and kind_of(frame[name]) == "category":
                        frame[name] = frame[name].mask(frame[name].isin(self.na_values))
                    if name in text:
                        frame[name] = as_text(frame[name])
                yield frame[list(columns)]
            return
        # All columns are parsed, since pandas accepts rows that are too long where some are not.
        unique = [name or i for i, name in enumerate(names)]
        reader = self._read_csv(
            header=0,
            names=unique,
            dtype={name: str for name in unique if name not in columns or name in text},
            index_col=False,
            decimal="," if self.decimal == "comma" else ".",
            na_values=list(self.na_values),
            low_memory=False,
            chunksize=rows,
        )
        with reader:
            for frame in reader:
                yield frame[list(columns)]

    def _read_csv(self, **options: Any) -> Any:
        import pandas as pd

        separator = {None: ",", "tab": "\t", "\\t": "\t"}.get(self.separator, self.separator)
        if self.separator is None and {".tsv", ".tab"} & set(Path(self.path).suffixes):
            separator = "\t"
        options |= {"sep": separator, "encoding": self.encoding, "skipinitialspace": True}
        return pd.read_csv(data_path(self.path), **options)

    def _open_parquet(self) -> Any:
        try:
            from pyarrow.parquet import ParquetFile
        except ImportError:
            remedy = "install it: pip install -e '.[parquet]'"
            raise InputError(f"{self.path}: reading Parquet needs pyarrow; {remedy}") from None
        # Its buffer would grow to the file's size.
        return ParquetFile(data_path(self.path), pre_buffer=False)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn what a library raises over the file into a message."""
        import pandas as pd

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                yield
            return
        except pd.errors.EmptyDataError:
            line = f"{self.path}: the file is empty; add a line of column names, and rows"
        except UnicodeError as error:
            line = f"{self.path}: not {self.encoding}: {self._describe_encoding(error)}"
        except LookupError as error:
            if "encoding" not in str(error):
                raise
            line = f"data.encoding: {error}; try utf-8, cp1252 or utf-16"
        except pd.errors.ParserWarning:
            line = f"{self.path}: row 1 has more cells than the header; fix the header, or the rows"
        except pd.errors.ParserError as error:
            reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
            remedy = "fix the file, or set data.separator"
            line = f"{self.path}: rows do not fit the header: {reason}; {remedy}"
        except (OSError, EOFError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            line = f"{self.path}: cannot be read: {reason}; replace the file"
        raise InputError(line)

    def _describe_encoding(self, error: UnicodeError) -> str:
        with data_path(self.path).open("rb") as lines:
            if lines.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                return "the file is utf-16; add data.encoding=utf-16"
            lines.seek(0)
            for number, line in enumerate(lines, 1):
                try:
                    line.decode(self.encoding)
                except UnicodeError as found:
                    at = getattr(found, "start", 0)
                    before = line[max(0, at - 20) : at].decode(self.encoding, "replace")
                    problem = f"line {number} has the byte 0x{line[at : at + 1].hex()}"
                    remedy = "for files from Windows, try data.encoding=cp1252"
                    return f"{problem} after {before!r}; {remedy}"
        return f"{error}; set data.encoding"


def _check_path(path: str) -> None:
    file = data_path(path)
    if not file.exists():
        siblings = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, siblings)
        hint = hint or f" (a relative path starts at the repository: {file})"
        raise InputError(f"data.path: {path}: no such file{hint}")
    if file.is_dir():
        tables = sorted(p.name for p in file.iterdir() if p.suffix in (".csv", ".tsv", *PARQUET))
        hint = f" in it: {join_names(tables)}" if tables else ""
        raise InputError(f"data.path: {path} is a folder; name a file{hint}")
    if file.suffix.lower() in UNSUPPORTED:
        raise InputError(
            f"data.path: {path}: {file.suffix} is not supported; save as CSV or Parquet"
        )
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; add a line of column names, and rows")
