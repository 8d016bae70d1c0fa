"""What of a table cannot be learnt from, each in a line that says where it stands and what to do.

Rows are counted from 1, the header not among them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from src.kindling.config.errors import counted
from src.kindling.data.tables.columns import Content, Read, names_word
from src.kindling.data.tables.read import Format

COMMA = r"-?\d+,\d+|-?\d{1,3}(,\d{3})+(\.\d+)?"


def mixed(path: str, content: Content, places: Any, form: Format, remedy: Callable[[list[str]], str]) -> str | None:
    """The line that refuses a column of numbers with some text among them.

    Args:
        path: the file.
        content: the column.
        places: the places of its levels `(rows,)`, missing NaN.
        form: how the file is written.
        remedy: what else there is to do than mend the file, given the texts.
    """
    if content.kind != "category":
        return None
    texts = content.texts(form)
    if len(texts) == len(content.levels) and not any("," in text for text in texts[:100]):
        return None
    counts = np.bincount(places[~np.isnan(places)].astype(np.int64), minlength=len(content.levels))
    wrong = [content.levels[text] for text in texts]
    if len(texts) < len(content.levels) and 2 * counts[wrong].sum() <= counts.sum() and texts:
        row = content.first[wrong[0]]
        return (f"{path}: column '{content.name}' has {counts.sum() - counts[wrong].sum():,} numbers and "
                f"{counts[wrong].sum():,} texts, the first {texts[0]!r} (row {row}); mend the file, {remedy(texts)}")  # fmt: skip
    import pandas as pd

    commas = pd.Series(list(content.levels), dtype=object).str.fullmatch(COMMA).to_numpy()
    if 2 * counts[commas].sum() > counts.sum():
        value, row = next((v, content.first[p]) for v, p in content.levels.items() if commas[p])
        return (f"{path}: column '{content.name}' has numbers with commas, the first {value!r} (row {row}); where the "
                f"comma parts the fraction add data.decimal=comma, else remove the commas")  # fmt: skip
    return None


def is_date(content: Content) -> bool:
    """Whether a column holds dates, or text most of which is dates."""
    if content.kind == "category":
        return bool(content.dates(most=1000).notna().mean() > 0.5)
    return content.kind == "date"


def useless(path: str, read: Read, features: Sequence[str], form: Format, free: Collection[str], dropped: Sequence[str]
            ) -> list[str]:  # fmt: skip
    """The lines that refuse features, all at once.

    Args:
        path: the file.
        read: its content.
        features: the names of the matrix' columns.
        form: how the file is written.
        free: those that may hold anything, because the user has called them categories.
        dropped: what `data.drop` names already.
    """

    def drop(names: Sequence[str]) -> str:
        return names_word("data.drop", [*dropped, *names])

    def remedy(name: str, texts: Sequence[str]) -> str:
        marks = names_word("data.missing", texts) if len(texts) <= 3 else "data.missing"
        return (f"say that this is a missing value ({marks}), take the column as text "
                f"({names_word('data.categories', [name])}), or leave it out ({drop([name])})")  # fmt: skip

    lines, dates, empty, constant, large = [], [], [], [], []
    for place, name in enumerate(features):
        content, column = read.contents[name], read.x[:, place]
        if content.kind is None:
            empty.append(name)
        elif name not in free and is_date(content):
            dates.append(name)
        elif name not in free and (line := mixed(path, content, column, form, functools.partial(remedy, name))):
            lines.append(line)
        elif content.too_large[0]:
            count, row = content.too_large
            large.append(f"{name} ({count:,}, the first in row {row})")
        elif not np.isnan(column).any() and column.min() == column.max():
            value = next(iter(content.levels)) if content.levels else f"{column[0]:g}"
            constant.append((name, f"{name} (always {value})"))
    if dates:
        lines.append(f"{path}: dates are no features as they are: {counted(dates)}; leave them out ({drop(dates)}), "
                     f"split by one (data.time={dates[0]}), or make numbers of them, such as the year")  # fmt: skip
    if empty:
        lines.append(f"{path}: columns without any value: {counted(empty)}; leave them out: {drop(empty)}")
    if constant:
        names, texts = zip(*constant, strict=True)
        lines.append(f"{path}: columns with one value only: {counted(texts)}; leave them out: {drop(names)}")
    if large:
        lines.append(f"{path}: infinite numbers, or beyond float32 (3.4e38), in columns: {counted(large)}; mend the "
                     f"file (an empty cell is a missing value)")  # fmt: skip
    return lines
