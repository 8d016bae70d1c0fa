"""A table from a CSV or Parquet file, with the column that is to be predicted named: `data=table`.

    python -m src.train table data.path=houses.csv data.target=price

read.py reads the file, columns.py makes a matrix of it, check.py refuses what
cannot be learnt from, and target.py decides what the target is. Here the features are described as the
training split has them; encode.py then does the same to a table that comes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, counted, did_you_mean
from src.kindling.data.batch import Samples
from src.kindling.data.data_module import DataModule, mean_and_std, of_target
from src.kindling.data.spec import Column, Spec
from src.kindling.data.tables.check import mixed, useless
from src.kindling.data.tables.columns import Content, names_word, read
from src.kindling.data.tables.read import Format, header
from src.kindling.data.tables.target import Target
from src.kindling.data.tables.values import as_numbers

# A category's most frequent levels are told apart; the rest counts as one, with what is missing or was never seen.
MOST_LEVELS = 256


class Table(DataModule):
    """Rows of numbers, categories and booleans, and one column or several to predict.

    Missing numbers become the mean, with an indicator beside them where the training split has any missing; missing
    and unseen categories are one level of their own. Text whose values all differ is dropped, since it names the
    rows. What is refused, each with its remedy: dates, constant and empty columns, numbers mixed with text, infinity.

    Args:
        path: a CSV file (`.tsv`, `.csv.gz` and the like too) or a Parquet one; relative ones start at the repository.
        target: the column to predict, or several: columns of 0 and 1 (or booleans) are labels, of which a row may have
            any number, and other numbers are values.
        kind: `auto` makes text, booleans, and whole numbers with few different values classes, and the rest values.
        labels: what parts the labels in a target of texts such as `red;round`, `;` say; an empty cell has none.
        group: a column no value of which may lie in two splits, such as a patient's number; it is no feature.
        time: a column of dates or numbers to split by, the oldest for training; it is no feature.
        drop: columns to leave out.
        categories: columns whose numbers are names, such as codes.
        missing: what stands for a missing value, such as `?`, beside the empty cell, `NA`, `NaN`, `null` and the like.
        separator: between a CSV file's cells, `tab` for the tab; None: a comma, or a tab in `.tsv`.
        encoding: of a CSV file.
        decimal: `comma` reads 3,14 as a number.

    Raises:
        InputError: when a column is named that cannot be, or the file cannot be learnt from.
    """

    def __init__(
        self,
        path: str,
        target: str | list[str],
        kind: Literal["auto", "classification", "regression"] = "auto",
        labels: str | None = None,
        group: str | None = None,
        time: str | None = None,
        drop: list[str] | None = None,
        categories: list[str] | None = None,
        missing: list[str] | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        decimal: Literal["point", "comma"] = "point",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if group is not None and time is not None:
            raise InputError("data.group and data.time: a split goes by one of them; leave the other out")
        self.path, self.targets = path, [target] if isinstance(target, str) else target
        if labels is not None and (len(self.targets) > 1 or kind == "regression" or not labels):
            raise InputError(
                "data.labels: parts the texts of one target, at what stands there, and makes classification"
            )
        self.kind, self.labels = kind, labels
        self.group, self.time = group, time
        self.drop, self.categories = drop or [], categories or []
        self.format = Format(separator, encoding, decimal, tuple(missing or ()))

    def load(self) -> Samples:
        features = self._features(header(self.path, self.format))
        apart = [name for name in (*self.targets, self.group, self.time) if name is not None]
        text = {*self.categories, *([self.group] if self.group else []), *(self.targets if self.labels else [])}
        found = read(self.path, self.format, features, apart, text)
        target = Target(self.path, self.format, self.kind, self.labels).decide([found.contents[n] for n in self.targets],
                                                                 [found.apart[n] for n in self.targets])  # fmt: skip
        self.notes.append(target.note)
        if lines := useless(self.path, found, features, self.format, self.categories, self.drop):
            raise InputError(lines)
        # What all differs names the rows, and says nothing of a new one.
        rows = len(found.x)
        names = [name for name in features if name not in self.categories
                 and rows == len(found.contents[name].levels)]  # fmt: skip
        if names:
            self.notes.append(f"dropped, because their text differs in every row: {counted(names)} "
                              f"({names_word('data.categories', names)} keeps them)")  # fmt: skip
            kept = [place for place, name in enumerate(features) if name not in names]
            found.x, features = np.take(found.x, kept, axis=1), [features[place] for place in kept]
        if not features:
            raise InputError(f"{self.path}: no column is left to predict '{', '.join(self.targets)}' from")
        for place, name in enumerate(features):
            if found.contents[name].kind == "number" and np.array_equal(
                found.x[:, place], np.arange(rows, dtype=np.float32) + found.x[0, place]
            ):
                self.notes.append(f"{name} counts the rows: it says where a row stands, and nothing of a new one; "
                                  f"{names_word('data.drop', [*self.drop, name])} leaves it out")  # fmt: skip
        self.contents = [found.contents[name] for name in features]
        return Samples(
            x=torch.from_numpy(found.x),
            y=target.y,
            classes=target.classes,
            columns=tuple(features),
            target=", ".join(self.targets),
            targets=tuple(self.targets) if len(self.targets) > 1 and not target.classes else (),
            groups=None if self.group is None else self._groups(found.contents[self.group], found.apart[self.group]),
            time=None if self.time is None else self._times(found.contents[self.time], found.apart[self.time]),
            name=lambda i: f"row {i + 1}",
        )

    def describe(self, samples: Samples, train: Tensor) -> Spec:
        """The columns as the training split has them; the categories of all rows are recoded to its levels."""
        x = samples.x
        assert isinstance(x, Tensor)
        mean, std = mean_and_std(x, train)
        columns = []
        for place, content in enumerate(self.contents):
            values = x[:, place]
            if content.kind == "category":
                columns.append(Column(content.name, "category", levels=self._recode(content, values, train)))
            else:
                kind: Literal["number", "boolean"] = "boolean" if content.kind == "boolean" else "number"
                absent = bool(values[train].isnan().any())
                columns.append(Column(content.name, kind, mean=mean[place], std=std[place], missing=absent))
        return Spec(
            in_shape=(sum(column.width for column in columns),),
            kind="table",
            columns=tuple(columns),
            **of_target(samples, train),
        )

    def _recode(self, content: Content, values: Tensor, train: Tensor) -> tuple[str, ...]:
        """Replace, in place, the places of a file's levels by those of the training split's, which are returned."""
        places = torch.nan_to_num(values, nan=len(content.levels)).long()
        counts = torch.bincount(places[train], minlength=len(content.levels) + 1)[:-1].tolist()
        seen = [(-count, level) for (level, place) in content.levels.items() if (count := counts[place])]
        if len(seen) > MOST_LEVELS:
            self.notes.append(f"{content.name}: {len(seen):,} different texts; the {MOST_LEVELS} most frequent are told "
                              f"apart, the others count as one")  # fmt: skip
        levels = sorted(level for _, level in sorted(seen)[:MOST_LEVELS])
        new = torch.full((len(content.levels) + 1,), -1.0)
        for i, level in enumerate(levels):
            new[content.levels[level]] = i
        values.copy_(new[places])
        return tuple(levels)

    # -----------------------------------------------------------------------------------------------------------
    # The columns that are named

    def _features(self, names: Sequence[str]) -> list[str]:
        """The columns to learn from, in the file's order."""
        wanted: dict[str, Sequence[str | None]] = {
            "target": self.targets, "group": [self.group], "time": [self.time], "drop": self.drop,
            "categories": self.categories,
        }  # fmt: skip
        known = [name for name in names if name]
        lines = [
            f"data.{key}: {self.path} has no column {name!r}{did_you_mean(name, known) or f' (it has: {counted(known)})'}"
            for key, given in wanted.items() for name in given if name is not None and name not in known
        ]  # fmt: skip
        for key in ("group", "time", "drop"):
            lines += [f"data.{key}: '{name}' is the target" for name in self.targets if name in wanted[key]]
        if len(set(self.targets)) < len(self.targets) or not self.targets:
            lines.append(f"data.target: expected columns, each once, got {self.targets}")
        if lines:
            raise InputError(lines)
        if len(known) < len(names):
            places = [str(i + 1) for i, name in enumerate(names) if not name]
            self.notes.append(f"dropped, because the header gives it no name: column {counted(places)}")
        features = [name for name in known if name not in (*self.targets, self.group, self.time, *self.drop)]
        if not features:
            raise InputError(f"{self.path}: no column is left to predict '{', '.join(self.targets)}' from")
        return features

    def _groups(self, content: Content, values: Any) -> Tensor:
        self._all_there("group", values)
        self.notes.append(f"split: by {self.group}, {len(content.levels):,} groups, none in two splits")
        return torch.from_numpy(values.astype(np.int64))

    def _times(self, content: Content, values: Any) -> Tensor:
        self._all_there("time", values)
        dates = content.kind == "date"
        if line := mixed(self.path, content, values, self.format, lambda _: "or remove these rows"):
            raise InputError(line)
        if content.kind == "category":
            levels = content.dates()
            if levels.isna().any():
                level = next(level for level, bad in zip(content.levels, levels.isna(), strict=True) if bad)
                raise InputError(f"data.time: {self.path}: column '{self.time}': {level!r} (row "
                                 f"{content.first[content.levels[level]]}) is no date like the others; write them all "
                                 f"as 2026-11-21, or as numbers")  # fmt: skip
            values, dates = as_numbers(levels)[values.astype(np.int64)], True
        ends = [values.min(), values.max()]
        shown = [str(np.datetime64(int(end), "ns").astype("datetime64[s]")).replace("T", " ").removesuffix(" 00:00:00")
                 if dates else f"{end:g}" for end in ends]  # fmt: skip
        self.notes.append(f"split: by {self.time}, from {shown[0]} to {shown[1]}; the oldest rows train")
        return torch.from_numpy(values)

    def _all_there(self, key: str, values: Any) -> None:
        if len(absent := np.flatnonzero(np.isnan(values))):
            raise InputError(f"data.{key}: {self.path}: column '{getattr(self, key)}' has no value in {len(absent):,} "
                             f"of {len(values):,} rows (the first: row {absent[0] + 1}); fill it in, or remove these "
                             f"rows")  # fmt: skip
