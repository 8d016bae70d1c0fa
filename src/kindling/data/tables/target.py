"""What a table's target is: one class, several labels, or values; src/kindling/data/tables/table.py asks once for each file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, counted
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.tables.check import is_date, mixed
from src.kindling.data.tables.columns import Content
from src.kindling.data.tables.read import Format

# Whole numbers are classes when there are at most so many different ones, each in at least so many rows on average.
MOST_CLASSES, ROWS_OF_CLASS = 20, 5


class Target:
    """Decides what one column or several say, and then holds it.

    Args:
        path: the file.
        form: how it is written.
        kind, labels: see Table.

    Attributes:
        y: class numbers `(rows,)`, labels or values `(rows, targets)`.
        classes: the names of classes or labels; empty for values.
        note: what a user should be told.
    """

    y: Tensor
    classes: tuple[str, ...] = ()
    note: str

    def __init__(
        self, path: str, form: Format, kind: Literal["auto", "classification", "regression"], labels: str | None
    ) -> None:
        self.path, self.form, self.kind, self.labels = path, form, kind, labels

    def decide(self, contents: Sequence[Content], values: Sequence[Any]) -> Target:
        """Take the columns, and the values `(rows,)` of each.

        Raises:
            InputError: when they cannot be learnt.
        """
        if self.labels is not None:
            self._parted(contents[0], values[0], self.labels)
        elif len(contents) == 1:
            self._one(contents[0], values[0])
        else:
            self._several(contents, values)
        return self

    def _one(self, content: Content, values: Any) -> None:
        problem = self._checked(content, values)
        different = np.unique(values)
        is_text = content.kind == "category"
        if self.kind == "regression" and is_text:
            raise InputError(f"data.kind: regression needs numbers, and {problem.removeprefix(f'{self.path}: ')} is text, "
                             f"such as {next(iter(content.levels))!r}; try data.kind=classification")  # fmt: skip
        self._check_varies(problem, content, different)
        whole = bool((different == np.round(different)).all())
        few = len(different) <= min(MOST_CLASSES, len(values) // ROWS_OF_CLASS)
        classes = content.kind != "number" or (whole and few)
        if self.kind != "auto":
            classes = self.kind == "classification"
        what = "numbers" if content.kind == "number" else "texts" if is_text else "truth values"
        self.note = (f"target: {content.name}, {len(different):,} different {what}: "
                     f"{'classification' if classes else 'regression'}"
                     + (" (data.kind sets it)" if self.kind == "auto" else ""))  # fmt: skip
        if not classes:
            self.y = torch.from_numpy(values).float().unsqueeze(1)
            return
        if is_text:
            texts = list(content.levels)
        elif content.kind == "boolean":
            texts = ["True" if value else "False" for value in different]
        else:
            texts = [str(int(value)) if whole else f"{value:g}" for value in different]
        places = np.searchsorted(different, values)
        self._check_counts(problem, texts, places, numbers=content.kind == "number")
        if is_text:
            order = np.argsort(np.array(texts, dtype=object), kind="stable")
            places, texts = np.argsort(order)[places], [texts[place] for place in order]
        self.y, self.classes = torch.from_numpy(places.astype(np.int64)), tuple(texts)

    def _several(self, contents: Sequence[Content], values: Sequence[Any]) -> None:
        names = [content.name for content in contents]
        for content, column in zip(contents, values, strict=True):
            problem = self._checked(content, column)
            if content.kind == "category":
                raise InputError(f"{problem} is text, such as {next(iter(content.levels))!r}; of several targets each is a "
                                 "number, or 0 and 1 where they are labels")  # fmt: skip
            self._check_varies(problem, content, np.unique(column))
        table = np.stack(values, axis=1)
        others = [name for name, column in zip(names, values, strict=True) if not np.isin(column, (0, 1)).all()]
        if self.kind == "classification" and others:
            raise InputError(f"data.kind: several targets are labels, 0 or 1 (or true or false), and {self.path} has other "
                             f"numbers in: {counted(others)}")  # fmt: skip
        labels = not others and self.kind != "regression"
        self.note = (f"target: {len(names)} columns ({counted(names)}): "
                     f"{'labels, any number for a row' if labels else 'values'}"
                     + (" (data.kind sets it)" if self.kind == "auto" else ""))  # fmt: skip
        self.y = torch.from_numpy(table).long() if labels else torch.from_numpy(table).float()
        self.classes = tuple(names) if labels else ()

    def _parted(self, content: Content, values: Any, separator: str) -> None:
        """Texts such as `red;round`; an empty cell has no label."""
        parts = [parted(text, separator) for text in content.levels]
        self.y, self.classes = as_labels([parts[int(v)] if v == v else [] for v in values])
        if not self.classes:
            raise InputError(f"{self.path}: the target '{content.name}' has no label in any row")
        self.note = (
            f"target: {content.name}, {len(self.classes):,} labels, any number for a row (data.labels parts them)"
        )

    # -----------------------------------------------------------------------------------------------------------
    # What is refused

    def _checked(self, content: Content, values: Any) -> str:
        """Refuse what is missing, of several kinds, or too large; how to begin a line on this target."""
        problem = f"{self.path}: the target '{content.name}'"
        if len(absent := np.flatnonzero(np.isnan(values))):
            where = counted([str(row + 1) for row in absent], most=3)
            raise InputError(f"{problem} has no value in {len(absent):,} of {len(values):,} rows (row {where}); fill it "
                             f"in, or remove these rows")  # fmt: skip
        if is_date(content):
            raise InputError(f"{problem} holds dates; make a number of it, such as the days until then")
        if self.kind != "classification" and (line := mixed(
            self.path, content, values, self.form, lambda _: "or take all of it as classes: data.kind=classification"
        )):  # fmt: skip
            raise InputError(line)
        if content.too_large[0]:
            count, row = content.too_large
            raise InputError(f"{problem} is infinite, or beyond float32 (3.4e38), in {count:,} rows, the first row "
                             f"{row}; mend or remove these rows")  # fmt: skip
        return problem

    def _check_varies(self, problem: str, content: Content, different: Any) -> None:
        if len(different) == 1:
            value = next(iter(content.levels)) if content.kind == "category" else f"{different[0]:g}"
            raise InputError(f"{problem} is {value!r} in every row; at least two different values are needed")

    def _check_counts(self, problem: str, texts: Sequence[str], places: Any, numbers: bool) -> None:
        counts = np.bincount(places, minlength=len(texts))
        rare = [f"{text} ({count}, row {np.argmax(places == place) + 1})"
                for place, (text, count) in enumerate(zip(texts, counts, strict=True)) if count < 3]  # fmt: skip
        if rare:
            remedy = "; add rows, remove these" + (", or predict a number: data.kind=regression" if numbers else "")
            raise InputError(f"{problem} has classes with fewer than 3 rows, one for each split: "
                             f"{counted(rare, most=5)}{remedy}")  # fmt: skip
