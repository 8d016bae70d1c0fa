"""Problems with a table's columns. Rows are counted from 1."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.tables.encode import as_numbers, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"
SIGN = r"[$€£¥₹%]"
WITH_SIGN = rf"[-+]?{SIGN} ?[-+]?\d[\d.,]*|[-+]?\d[\d.,]* ?{SIGN}"
GROUPED = (  # 4.090,50 and 4 090,50
    r"[-+]?\d{1,3}(\.\d{3})+,\d+|[-+]?\d{1,3}(\.\d{3}){2,}"
    r"|[-+]?\d{1,3}([ \xa0\u202f']\d{3})+([.,]\d+)?"
)
LARGEST = float(np.finfo(np.float32).max)

# What a column has, the remedy for features, and the remedy for a target.
PROBLEMS = {
    "missing": ("no value", "drop them: {drop}", "fill it in"),
    "other": ("neither numbers nor text", "drop them: {drop}", "use another column"),
    "constant": ("only one value", "drop them: {drop}", "at least two different values are needed"),
    "infinite": (
        "infinite numbers, or beyond float32 (3.4e38)",
        "fix the file (an empty cell is a missing value)",
        "fix or remove these rows",
    ),
    "date": (
        "dates",
        "drop them ({drop}), split by one (data.time={first}), or convert to numbers such as years",
        "convert them to numbers, such as days",
    ),
    "mixed": (
        "numbers mixed with text",
        "fix the file, declare missing values ({marks}), read as text ({text}), or drop ({drop})",
        "fix the file, or use all values as classes: data.kind=classification",
    ),
    "commas": ("numbers with commas", *["add data.decimal=comma, or remove the commas"] * 2),
    "grouped": (
        "numbers with marks between thousands",
        "remove the marks (4 090,50 is 4090,50), read as text ({text}), or drop ({drop})",
        "remove the marks: 4.090,50 and 4 090,50 are 4090,50, with data.decimal=comma",
    ),
    "signs": (
        "numbers with a currency or percent sign",
        "remove the signs, read as text ({text}), or drop ({drop})",
        "remove the signs, and write 4,090 as 4090",
    ),
}
# What a column of classes or categories may have.
OF_TEXT = ("date", "mixed", "commas", "grouped", "signs")


def find_problem(column: pd.Series[Any], decimal: str) -> tuple[str, str]:
    """A key of PROBLEMS, empty for a good column, and a detail for the message."""
    kind = kind_of(column)
    if kind in ("missing", "date"):
        return kind, ""
    values = column.dropna()
    if kind == "other":
        return "other", repr(str(values.iloc[0])[:40])
    if kind == "number":
        large = np.abs(as_numbers(column)) > LARGEST
        if large.any():
            return "infinite", f"{large.sum():,}, the first in row {large.argmax() + 1}"
        values = pd.Series(as_numbers(values))
    if len(values) == len(column) and values.nunique() == 1:
        first = values.iloc[0]
        return "constant", f"always {first if kind == 'category' else f'{first:g}'}"
    return _find_problem_of_texts(column, decimal) if kind == "category" else ("", "")


def _find_problem_of_texts(column: pd.Series[Any], decimal: str) -> tuple[str, str]:
    values = column.dropna()
    some = values.unique()[:1000]
    if any(parse_dates(some, dayfirst).notna().mean() > 0.5 for dayfirst in (True, False)):
        return "date", ""
    texts = find_texts(column, decimal)
    grouped = column.str.fullmatch(GROUPED, na=False)
    if grouped.any() and not (texts & ~grouped & ~column.str.fullmatch(COMMA, na=False)).any():
        return "grouped", f"the first {locate(column, grouped)}"
    if 0 < 2 * texts.sum() <= len(values):
        numbers = len(values) - texts.sum()
        detail = f"{numbers:,} numbers and {texts.sum():,} texts, the first"
        return "mixed", f"{detail} {locate(column, texts)}"
    for problem, pattern in (("commas", COMMA), ("signs", WITH_SIGN)):
        found = column.str.fullmatch(pattern, na=False)
        if 2 * found.sum() > len(values):
            return problem, f"the first {locate(column, found)}"
    return "", ""


def find_texts(column: pd.Series[Any], decimal: str) -> pd.Series[bool]:
    """The rows of a text column that hold no number."""
    plain = column.str.replace(",", ".") if decimal == "comma" else column
    return column.notna() & pd.to_numeric(plain, errors="coerce").isna()


def find_unknown_names(
    file: TableFile, header: Sequence[str], given: Mapping[str, Sequence[str]]
) -> list[str]:
    """A line for each name, by the key that gives it, that is not in a table's header."""
    known = [name for name in header if name]
    lines = []
    for key, names in given.items():
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f" (it has: {join_names(known)}); name one"
                lines.append(f"{key}: {file.path} has no column {name!r}{hint}")
    targets = list(given["data.target"])
    if len(set(targets)) < len(targets) or not targets:
        lines.append(f"data.target: expected different columns, got {targets}")
    return lines


def check_features(
    file: TableFile,
    features: Mapping[str, pd.Series[Any]],
    drop: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Refuse features from which nothing can be learned, with a line for each kind of problem."""
    found: dict[str, dict[str, str]] = {}
    for name in features:
        problem, detail = find_problem(features[name], file.decimal)
        if problem and not (name in categories and problem in OF_TEXT):
            found.setdefault(problem, {})[name] = f"{name} ({detail})" if detail else name
    lines = []
    for problem, names in found.items():
        statement, remedy, _ = PROBLEMS[problem]
        texts: list[str] = []
        for name in names if problem == "mixed" else ():
            texts += features[name][find_texts(features[name], file.decimal)].unique().tolist()
        marks = format_override("data.na_values", [*file.na_values, *texts])
        remedy = remedy.format(
            drop=format_override("data.drop", [*drop, *names]),
            text=format_override("data.categories", [*categories, *names]),
            marks=marks if len(texts) <= 3 else "data.na_values",
            first=next(iter(names)),
        )
        listed = join_names(list(names.values()))
        lines.append(f"{file.path}: columns with {statement}: {listed}; {remedy}")
    if lines:
        raise InputError(lines)


def check_column(
    file: TableFile, column: pd.Series[Any], subject: str, ignore: Collection[str] = ()
) -> None:
    """Refuse missing values, and each problem but those to ignore, in a target, group or time."""
    absent = [str(row + 1) for row in np.flatnonzero(column.isna())]
    if absent:
        where = f"{len(absent):,} of {len(column):,} rows (row {join_names(absent, most=3)})"
        raise InputError(f"{subject} has no value in {where}; fill it in, or remove these rows")
    problem, detail = find_problem(column, file.decimal)
    if problem and problem not in ignore:
        statement, _, remedy = PROBLEMS[problem]
        raise InputError(f"{subject} has {statement} ({detail}); {remedy}".replace(" ()", ""))


def locate(column: pd.Series[Any], rows: Any) -> str:
    """The first of some rows, for a message: `'n/k' (row 6)`."""
    first = int(np.argmax(rows))
    return f"{column.iloc[first]!r} (row {first + 1})"


def format_override(key: str, names: Sequence[str]) -> str:
    """`key=[a,b]`, quoted for a shell where necessary."""
    if all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in names):
        return f"{key}=[{','.join(names)}]"
    return f"'{key}={json.dumps(list(names), ensure_ascii=False)}'"
