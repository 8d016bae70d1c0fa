"""A table from a CSV or Parquet file: `data=table`.

    python -m src.train table data.path=houses.csv data.target=price

read.py reads the file, columns.py checks its columns, target.py decides on the kind of the
target, and encode.py encodes rows that come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.data_module import DataModule
from src.kindling.data.images.find_images import SPLITS
from src.kindling.data.samples import Samples
from src.kindling.data.spec import Column, Spec
from src.kindling.data.statistics import mean_and_std, of_target
from src.kindling.data.tables.columns import check_features, find_unknown_names, format_override
from src.kindling.data.tables.encode import as_numbers, kind_of
from src.kindling.data.tables.read import TableFile
from src.kindling.data.tables.split_columns import SplitBy
from src.kindling.data.tables.target import Target, TargetKind

# A column keeps its most frequent categories; all others count as one, as missing ones do.
MAX_CATEGORIES = 256
QUANTILES = np.linspace(0, 1, 100)


class Table(DataModule):
    """Rows of numbers, categories and booleans, with one or several columns to predict.

    Missing numbers become the mean, with an indicator column where the training split has any.
    Missing and unseen categories share one category. Text that differs in every row is dropped.
    Dates, constant and empty columns, numbers mixed with text, and infinity are refused.

    Args:
        path: a CSV file (also `.tsv`, `.csv.gz`, …) or Parquet file.
        target: the column to predict, or several: columns of 0 and 1 (or booleans) are labels, any
            number of them per row, and other numbers are values.
        kind: `auto` predicts classes for text, booleans, and whole numbers with few different
            values, and values otherwise.
        labels: the separator of labels in a target of texts such as `red;round`; an empty cell has
            no label.
        merge_labels: make texts of the target one that differ only in case or white space.
        group_column: rows of one group, such as a patient's, stay in one split; not a feature.
        time: a column of dates or numbers; the oldest rows are for training; not a feature.
        dayfirst: whether 2.1.2023 in that column is January 2; None finds out from days above 12.
        drop: columns to ignore.
        categories: columns whose numbers are codes.
        scaling: of numbers: `standard` by mean and standard deviation, or `quantile` by the rank
            among the training values, from -1.7 to 1.7. A target is always standardized.
        na_values: marks of missing values, such as `?`, besides the empty cell, `NA`, `null`, ….
        separator: between cells, `tab` for a tab; None: a comma, or a tab in `.tsv`.
        encoding: of a CSV file.
        decimal: `comma` reads 3,14 as a number.

    Raises:
        InputError: when an argument does not fit the file, or nothing can be learned from the file.
    """

    def __init__(
        self,
        path: str,
        target: str | list[str],
        kind: TargetKind = "auto",
        labels: str | None = None,
        merge_labels: bool = False,
        group_column: str | None = None,
        time: str | None = None,
        dayfirst: bool | None = None,
        drop: list[str] | None = None,
        categories: list[str] | None = None,
        scaling: Literal["standard", "quantile"] = "standard",
        na_values: list[str] | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        decimal: Literal["point", "comma"] = "point",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.targets = [target] if isinstance(target, str) else target
        self.split_by = SplitBy(group_column, time, dayfirst)
        self.drop, self.categories = drop or [], categories or []
        self.scaling = scaling
        self.file = TableFile(path, separator, encoding, decimal, tuple(na_values or ()))
        self.target = Target(self.file, self.targets, kind, labels, merge_labels)

    def load(self) -> Samples:
        features = self._find_features(self.file.read_header())
        others = [*self.targets, *self.split_by.names]
        text = {*self.categories, *self.split_by.columns["data.group_column"]}
        if self.target.labels:
            text.update(self.targets)
        frame = self.file.read([*features, *others], text)
        fields = self.target.read(frame, self.notes)
        columns = {name: frame[name] for name in features}
        check_features(self.file, columns, self.drop, self.categories)
        fields |= self.split_by.read(self.file, frame, self.notes)
        features = self._drop_identifiers(frame, features)
        for name in features:
            found = {str(value).strip().lower() for value in frame[name].unique()[:10]}
            if len(found) > 1 and found <= SPLITS.keys():
                drop = format_override("data.drop", [*self.drop, name])
                problem = "holds names of splits, which a table does not take from a column"
                self.notes.append(f"{name}: {problem}, and is a feature; drop it: {drop}")
        self.kinds = {name: kind_of(frame[name]) for name in features}
        self.texts = {name: frame[name] for name in features if self.kinds[name] == "category"}
        x = np.empty((len(frame), len(features)))
        for i, name in enumerate(features):
            column = frame[name]
            x[:, i] = pd.factorize(column)[0] if name in self.texts else as_numbers(column)
            if self.kinds[name] == "number" and (np.diff(x[:, i]) == 1).all():
                drop = format_override("data.drop", [*self.drop, name])
                self.notes.append(f"{name} only counts the rows; drop it: {drop}")
        return Samples(
            x=torch.from_numpy(x),
            columns=tuple(features),
            name=lambda i: f"row {i + 1}",
            **fields,
        )

    def describe(self, samples: Samples, train: Tensor) -> Spec:
        """Describe the columns by the training split, and recode the categories accordingly."""
        x = samples.x
        assert isinstance(x, Tensor)
        columns = []
        moments = zip(samples.columns, *mean_and_std(x, train), strict=True)
        for i, (name, mean, std) in enumerate(moments):
            if name in self.texts:
                categories = self._find_categories(self.texts[name].iloc[train.numpy()])
                codes = pd.Index(categories, dtype=object).get_indexer(self.texts[name])
                x[:, i] = torch.from_numpy(codes)
                columns.append(Column(name, "category", categories=categories))
            else:
                kind: Any = self.kinds[name]  # a number or boolean: others are refused
                known = x[train, i][~x[train, i].isnan()]
                column = Column(name, kind, mean=mean, std=std, missing=len(known) < len(train))
                if self.scaling == "quantile":
                    quantiles = np.quantile(known if len(known) else [0.0], QUANTILES)
                    column = replace(column, quantiles=tuple(quantiles.tolist()))
                columns.append(column)
        return Spec(
            in_shape=(sum(column.width for column in columns),),
            kind="table",
            columns=tuple(columns),
            **of_target(samples, train),
        )

    def _find_categories(self, column: pd.Series[Any]) -> tuple[str, ...]:
        """The most frequent categories of the training split, sorted."""
        counts = column.value_counts().sort_index()
        if len(counts) > MAX_CATEGORIES:
            texts = f"{len(counts):,} different texts; the {MAX_CATEGORIES} most frequent"
            self.notes.append(
                f"{column.name}: {texts} are categories, the others become one category"
            )
            counts = counts.sort_values(ascending=False, kind="stable")[:MAX_CATEGORIES]
        return tuple(sorted(counts.index))

    def _find_features(self, names: Sequence[str]) -> list[str]:
        """The names of the features, in the file's order; checks all names that the user gave."""
        given = {
            "data.target": self.targets,
            "data.drop": self.drop,
            "data.categories": self.categories,
            **self.split_by.columns,
        }
        lines = find_unknown_names(self.file, names, given)
        for key in ("data.drop", *self.split_by.columns):
            for name in self.targets:
                if name in given[key]:
                    lines.append(f"{key}: '{name}' is the target; name another column")
        if lines:
            raise InputError(lines)
        if unnamed := [str(i) for i, name in enumerate(names, 1) if not name]:
            listed = join_names(unnamed)
            self.notes.append(f"dropped, without a name in the header: column {listed}")
        others = {"", *self.targets, *self.drop, *self.split_by.names}
        return [name for name in names if name not in others]

    def _drop_identifiers(self, frame: pd.DataFrame, features: list[str]) -> list[str]:
        """Leave out texts that differ in every row: they identify a row."""
        texts = [name for name in features if kind_of(frame[name]) == "category"]
        unique = [name for name in texts if frame[name].nunique() == len(frame)]
        names = [name for name in unique if name not in self.categories]
        if names:
            keep = format_override("data.categories", names)
            reason = "since the text differs in every row"
            self.notes.append(f"dropped, {reason}: {join_names(names)}; keep with {keep}")
        if len(names) == len(features):
            problem = f"no column is left to predict '{', '.join(self.targets)}' from"
            raise InputError(f"{self.file.path}: {problem}; add features, or drop fewer")
        return [name for name in features if name not in names]
