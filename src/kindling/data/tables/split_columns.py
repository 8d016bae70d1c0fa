"""The columns by which samples are split: groups, and times."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.tables.columns import PROBLEMS, check_column, locate
from src.kindling.data.tables.encode import as_numbers, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile


def check_split_options(group_column: str | None, time: str | None, dayfirst: bool | None) -> None:
    """Refuse options that exclude each other."""
    if group_column is not None and time is not None:
        raise InputError("data.group_column and data.time: cannot split by both; remove one")
    if dayfirst is not None and time is None:
        raise InputError("data.dayfirst: how the dates of data.time are read; set data.time")


def read_split_columns(
    file: TableFile,
    frame: pd.DataFrame,
    group_column: str | None,
    time: str | None,
    dayfirst: bool | None,
    notes: list[str],
) -> dict[str, Any]:
    """The fields `groups` and `time` of `Samples`, as far as there are such columns.

    Raises:
        InputError: when a value is missing, or a time is not known.
    """
    fields: dict[str, Tensor] = {}
    if group_column:
        fields["groups"] = _read_groups(file, frame[group_column], notes)
    if time:
        fields["time"] = _read_times(file, frame[time], dayfirst, notes)
    return fields


def _read_groups(file: TableFile, column: pd.Series[Any], notes: list[str]) -> Tensor:
    """A number for the group of each row, `(rows,)`."""
    _check(file, column, "group_column")
    codes, groups = pd.factorize(column)
    notes.append(f"split: by {column.name}, {len(groups):,} groups, none in two splits")
    return torch.from_numpy(codes)


def _read_times(
    file: TableFile, column: pd.Series[Any], dayfirst: bool | None, notes: list[str]
) -> Tensor:
    """Dates or numbers as float64, `(rows,)`.

    Raises:
        InputError: when a value is neither, or the order of day and month is not known.
    """
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
        shown = [f"{end:%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00") for end in ends]
    else:
        shown = [f"{end:.12g}" for end in ends]
    notes.append(f"split: by {column.name}, from {' to '.join(shown)}; the oldest rows train")
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
