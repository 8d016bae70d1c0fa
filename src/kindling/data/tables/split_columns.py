"""The columns by which samples are split: groups, and times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.tables.columns import PROBLEMS, check_column, locate
from src.kindling.data.tables.encode import as_numbers, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile


@dataclass(frozen=True)
class SplitBy:
    """The options `data.group_column`, `data.time` and `data.dayfirst`."""

    group_column: str | None
    time: str | None
    dayfirst: bool | None

    def __post_init__(self) -> None:
        if self.group_column is not None and self.time is not None:
            raise InputError("data.group_column and data.time: cannot split by both; remove one")
        if self.dayfirst is not None and self.time is None:
            raise InputError("data.dayfirst: how the dates of data.time are read; set data.time")

    @property
    def columns(self) -> dict[str, list[str]]:
        """The column that each of the two keys gives, if any."""
        options = {"data.group_column": self.group_column, "data.time": self.time}
        return {key: [name] if name else [] for key, name in options.items()}

    @property
    def names(self) -> list[str]:
        return [name for name in (self.group_column, self.time) if name]

    def read(self, file: TableFile, frame: pd.DataFrame, notes: list[str]) -> dict[str, Any]:
        """The fields `groups` and `time` of `Samples`, as far as there are such columns."""
        fields: dict[str, Tensor] = {}
        if self.group_column:
            column = frame[self.group_column]
            _check(file, column, "group_column")
            codes, groups = pd.factorize(column)
            notes.append(f"split: by {column.name}, {len(groups):,} groups, none in two splits")
            fields["groups"] = torch.from_numpy(codes)
        if self.time:
            fields["time"] = _read_times(file, frame[self.time], self.dayfirst, notes)
        return fields

    def search(self, paths: Iterable[str]) -> dict[str, list[str]]:
        """The column for `read` from paths, by the option as a regular expression.

        A value is the first group of the expression in parentheses, or else the full match.
        """
        pattern = self.group_column or self.time
        if not pattern:
            return {}
        key = "data.time" if self.time else "data.group_column"
        remedy = r"give a regular expression such as '(patient\d+)', or a column of data.files"
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise InputError(f"{key}: {pattern!r}: {error}; {remedy}") from None
        matches = {path: compiled.search(Path(path).as_posix()) for path in paths}
        if missing := [path for path, match in matches.items() if not match]:
            count = f"{len(missing):,} of {len(matches):,} paths"
            problem = f"{pattern!r} is not found in {count} ({join_names(missing, most=3)})"
            raise InputError(f"{key}: {problem}; {remedy}")
        number = 1 if compiled.groups else 0
        return {pattern: [match[number] for match in matches.values() if match]}


def _read_times(
    file: TableFile, column: pd.Series[Any], dayfirst: bool | None, notes: list[str]
) -> Tensor:
    """Dates or numbers as float64, `(rows,)`."""
    subject = _check(file, column, "time")
    if kind_of(column) == "category":
        dates = _read_dates(column, dayfirst, subject, notes)
        candidates = [dates, pd.to_numeric(column, errors="coerce")]
        values = max(candidates, key=lambda candidate: candidate.notna().sum())
        if values.isna().any():
            problem = f"{locate(column, values.isna())} is not a date or number like the others"
            remedy = "write all as 2026-11-21, or as numbers"
            remedy += "" if dayfirst is None else ", or remove data.dayfirst"
            raise InputError(f"{subject}: {problem}; {remedy}")
        column = values.rename(column.name)
    ends = column.min(), column.max()
    if kind_of(column) == "date":
        formatted = [f"{end:%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00") for end in ends]
    else:
        formatted = [f"{end:.12g}" for end in ends]
    notes.append(f"split: by {column.name}, from {' to '.join(formatted)}; the oldest rows train")
    return torch.tensor(as_numbers(column))


def _check(file: TableFile, column: pd.Series[Any], key: str) -> str:
    """Refuse missing and strange values; the subject of messages on the column."""
    subject = f"data.{key}: {file.path}: column '{column.name}'"
    check_column(file, column, subject, PROBLEMS.keys() - {"other"})
    return subject


def _read_dates(
    column: pd.Series[Any], dayfirst: bool | None, subject: str, notes: list[str]
) -> pd.Series[Any]:
    """Texts as dates, NaT for other text; the whole column has the day or the month first."""
    day_first, month_first = parse_dates(column, True), parse_dates(column, False)
    if day_first.equals(month_first):
        return day_first
    chosen, reason = dayfirst, "data.dayfirst sets"
    if chosen is None:
        rows = (day_first.notna() != month_first.notna()).to_numpy()
        if not rows.any():
            example = locate(column, day_first.notna() & (day_first != month_first))
            problem = f"{example} can be day.month.year or month.day.year"
            remedy = "set data.dayfirst=true or data.dayfirst=false"
            raise InputError(f"{subject}: {problem}; {remedy}")
        chosen = bool(day_first.notna().sum() >= month_first.notna().sum())
        reason = f"{locate(column, rows)} shows"
    order = "day.month.year" if chosen else "month.day.year"
    notes.append(f"dates: column '{column.name}' is {order}, as {reason}")
    return day_first if chosen else month_first
