"""What is wrong with a table's columns, and what its target is. Rows are counted from 1."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.labels import as_labels, find_lookalikes, merge_spellings, parted
from src.kindling.data.tables.encode import as_numbers, as_text, kind_of, parse_dates
from src.kindling.data.tables.read import TableFile

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"
SIGN = r"[$€£¥₹%]"
WITH_SIGN = rf"[-+]?{SIGN} ?[-+]?\d[\d.,]*|[-+]?\d[\d.,]* ?{SIGN}"
GROUPED = (  # 4.090,50 and 4 090,50
    r"[-+]?\d{1,3}(\.\d{3})+,\d+|[-+]?\d{1,3}(\.\d{3}){2,}"
    r"|[-+]?\d{1,3}([ \xa0\u202f']\d{3})+([.,]\d+)?"
)
LARGEST = float(np.finfo(np.float32).max)
# Whole numbers are classes when at most so many differ, each in at least so many rows on average.
MAX_CLASSES, MIN_ROWS_PER_CLASS = 20, 5

TargetKind = Literal["auto", "classification", "regression"]
Target = tuple[Tensor, tuple[str, ...], list[str]]  # values, names of classes or labels, notes

# What a column has, the remedy for features, and the remedy for a target.
PROBLEMS = {
    "empty": ("no value", "drop them: {drop}", "fill it in"),
    "other": ("neither numbers nor text", "drop them: {drop}", "use another column"),
    "constant": ("only one value", "drop them: {drop}", "at least two different values are needed"),
    "infinite": (
        "infinite numbers, or beyond float32 (3.4e38)",
        "fix the file (an empty cell is a missing value)",
        "fix or remove these rows",
    ),
    "dates": (
        "dates",
        "drop them ({drop}), split by one (data.time={first}), or convert to numbers such as years",
        "convert them to numbers, such as days",
    ),
    "mixed": (
        "numbers mixed with text",
        "fix the file, declare missing values ({marks}), read as text ({text}), or drop ({drop})",
        "fix the file, or use all values as classes: data.kind=classification",
    ),
    "commas": (
        "numbers with commas",
        "add data.decimal=comma, or remove the commas",
        "add data.decimal=comma, or remove the commas",
    ),
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
OF_TEXT = ("dates", "mixed", "commas", "grouped", "signs")


def find_problem(column: pd.Series[Any], decimal: str) -> tuple[str, str]:
    """A key of PROBLEMS, empty for a good column, and a detail for the message."""
    kind = kind_of(column)
    if kind in ("missing", "date"):
        return {"missing": "empty", "date": "dates"}[kind], ""
    values = column.dropna()
    if kind == "other":
        return "other", repr(str(values.iloc[0])[:40])
    if kind == "number":
        large = np.abs(as_numbers(column)) > LARGEST
        if large.any():
            return "infinite", f"{large.sum():,}, the first in row {large.argmax() + 1}"
        values = pd.Series(as_numbers(values).astype(np.float32))  # as training sees them
    if len(values) == len(column) and values.nunique() == 1:
        first = values.iloc[0]
        return "constant", f"always {first if kind == 'category' else f'{first:g}'}"
    return _find_problem_of_texts(column, decimal) if kind == "category" else ("", "")


def _find_problem_of_texts(column: pd.Series[Any], decimal: str) -> tuple[str, str]:
    values = column.dropna()
    some = values.unique()[:1000]
    if any(parse_dates(some, dayfirst).notna().mean() > 0.5 for dayfirst in (True, False)):
        return "dates", ""
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


def check_features(
    file: TableFile,
    features: Mapping[str, pd.Series[Any]],
    drop: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Refuse features from which nothing can be learned, with a line for each kind of problem.

    Args:
        file: the table.
        features: columns by name.
        drop, categories: the present values of `data.drop` and `data.categories`.
    """
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


def check_labels(labels: str | None, targets: Sequence[str], kind: TargetKind) -> None:
    """Refuse a separator of labels that is empty, or with several targets, or a regression."""
    if labels is not None and (len(targets) > 1 or kind == "regression" or not labels):
        problem = f"{labels!r} needs to be a separator, with one target and no regression"
        raise InputError(f"data.labels: {problem}; remove it, or change data.target or data.kind")


def build_target(
    file: TableFile,
    columns: Sequence[pd.Series[Any]],
    kind: TargetKind,
    labels: str | None,
    merge: bool = False,
    fewest: int = 3,
) -> Target:
    """Decide between classes, labels and values.

    Args:
        file: the table.
        columns: one target, or several.
        kind, labels: `data.kind` and `data.labels`.
        merge: make texts one that differ only in case or white space.
        fewest: rows that a class needs.

    Returns:
        Class numbers `(rows,)`, or labels or values `(rows, targets)`; the names of the classes or
        labels; and notes on the decision.

    Raises:
        InputError: when the columns cannot be predicted.
    """
    if labels is not None:
        y, names, note = _split_labels(file, columns[0], labels, merge)
        return y, names, [note, *find_lookalikes(names)]
    ignore = OF_TEXT if kind == "classification" else ()
    for column in columns:
        check_column(file, column, f"{file.path}: the target '{column.name}'", ignore)
    if len(columns) > 1:
        y, names, note = _several(file, columns, kind)
    else:
        y, names, note = _single(file, columns[0], kind, merge, fewest)
    note += " (to change it, set data.kind)" * (kind == "auto")
    return y, names, [note, *find_lookalikes(names)]


def _single(
    file: TableFile, column: pd.Series[Any], kind: TargetKind, merge: bool, fewest: int
) -> tuple[Tensor, tuple[str, ...], str]:
    found = kind_of(column)
    if kind == "regression" and found == "category":
        problem = f"regression needs numbers, and '{column.name}' has {column.iloc[0]!r}"
        raise InputError(f"data.kind: {problem}; set data.kind=classification")
    values = column.to_numpy(dtype=object) if found == "category" else as_numbers(column)
    if merge and found == "category":
        values = np.array(merge_spellings(column.tolist()), dtype=object)
    different, first, y, counts = np.unique(
        values, return_index=True, return_inverse=True, return_counts=True
    )
    few = len(different) <= min(MAX_CLASSES, len(values) // MIN_ROWS_PER_CLASS)
    discrete = found != "number" or (few and bool((different % 1 == 0).all()))
    what = {"category": "texts", "boolean": "truth values"}.get(found, "numbers")
    like_numbers = found == "category" and not find_texts(column, file.decimal).any()
    note = f"target: {column.name}, {len(different):,} different {what}"
    if kind == "regression" or (kind == "auto" and not discrete):
        numbers = torch.tensor(values, dtype=torch.float32)
        return numbers.unsqueeze(1), (), f"{note}: regression"
    names = as_text(pd.Series(different.astype(bool) if found == "boolean" else different)).tolist()
    rare = [
        f"{names[i]} ({counts[i]}, row {first[i] + 1})" for i in np.flatnonzero(counts < fewest)
    ]
    if rare:
        problem = f"the target '{column.name}' has classes with fewer than 3 rows, one per split"
        number = ", or predict a number: data.kind=regression" if found == "number" else ""
        remedy = f"add rows, remove these{number}"
        raise InputError(f"{file.path}: {problem}: {join_names(rare)}; {remedy}")
    note = f"{note} that look like numbers" if like_numbers else note
    remedy = "; data.kind=regression predicts numbers" if like_numbers else ""
    return torch.from_numpy(y), tuple(names), f"{note}: classification{remedy}"


def _several(
    file: TableFile, columns: Sequence[pd.Series[Any]], kind: TargetKind
) -> tuple[Tensor, tuple[str, ...], str]:
    for column in columns:
        if kind_of(column) == "category":
            problem = f"the target '{column.name}' is text, such as {column.iloc[0]!r}"
            remedy = "with several targets use numbers, or 0 and 1 for labels"
            raise InputError(f"{file.path}: {problem}; {remedy}")
    y = torch.from_numpy(np.stack([as_numbers(column) for column in columns], axis=1))
    names = tuple(str(column.name) for column in columns)
    others = np.array(names)[((y != 0) & (y != 1)).any(dim=0).numpy()].tolist()
    if kind == "classification" and others:
        problem = "several targets are labels, with other numbers than 0 and 1 in"
        raise InputError(f"data.kind: {problem}: {join_names(others)}; set data.kind=regression")
    note = f"target: {len(names)} columns ({join_names(names)})"
    if others or kind == "regression":
        return y.float(), (), f"{note}: values"
    return y.long(), names, f"{note}: labels, any number per row"


def _split_labels(
    file: TableFile, column: pd.Series[Any], separator: str, merge: bool
) -> tuple[Tensor, tuple[str, ...], str]:
    """Labels written as texts such as `red;round`; an empty cell has no label."""
    rows = [parted(text, separator) for text in column.astype(object).fillna("")]
    if merge:
        merged = iter(merge_spellings([label for row in rows for label in row]))
        rows = [[next(merged) for _ in row] for row in rows]
    y, names = as_labels(rows)
    if not names:
        problem = f"the target '{column.name}' has no label in any row"
        raise InputError(f"{file.path}: {problem}; fill in labels")
    found = f"{len(names):,} labels, any number per row (split by data.labels)"
    return y, names, f"target: {column.name}, {found}"
