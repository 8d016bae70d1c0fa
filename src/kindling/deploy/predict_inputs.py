"""The inputs of predictions: images or tables as the run's test samples."""

from __future__ import annotations

import dataclasses
import glob
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, did_you_mean, format_count
from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED
from src.kindling.data.images.find_images import walk_once
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.loader import make_loader
from src.kindling.data.samples import Samples
from src.kindling.data.spec import Spec
from src.kindling.data.tables.encode import encode_frame, unseen_in
from src.kindling.data.tables.read import TableFile
from src.kindling.data.tables.table import Table

Names = dict[str, Any]  # of some rows, by column
Part = tuple[Names, Tensor]  # and their raw input `(B, *raw_shape)`

TABLES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
MAX_PIXELS = 100_000_000  # of an image, where the run's data sets no limit


def find(inputs: Sequence[str], images: bool, scratch: str) -> list[str]:
    """Find the images or tables that the words name; `scratch` is a folder for standard input."""
    endings = {"images": tuple(sorted(EXTENSIONS | UNSUPPORTED.keys())), "tables": TABLES}
    kind, other = ("images", "tables") if images else ("tables", "images")
    found, lines = list[str](), list[str]()
    for word in inputs:
        path = os.path.expanduser(word)
        if word == "-":
            inside = [os.path.join(scratch, "stdin" if images else "stdin.csv")]
            with open(inside[0], "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        elif os.path.isdir(path):
            walk = walk_once(path, {})
            files = [os.path.join(parent, name) for parent, names in walk for name in names]
            files = [name for name in files if f"{os.sep}." not in os.sep + name[len(path) :]]
            inside = sorted(name for name in files if name.lower().endswith(endings[kind]))
            problem = f"no {kind} in this folder ({', '.join(endings[kind])})"
        elif os.path.exists(path):
            inside = [path]
        else:
            inside = sorted(filter(os.path.isfile, glob.iglob(path, recursive=True)))
            beside = (one.name for one in Path(path).parent.glob("*"))
            problem = f"no such file or folder{did_you_mean(os.path.basename(path), beside)}"
        if not inside:
            lines.append(f"{word}: {problem}")
        if wrong := [name for name in inside if name.lower().endswith(endings[other])]:
            lines.append(f"{wrong[0]}: this run predicts from {kind}, not from {other}")
        found += inside
    if lines:
        raise InputError(lines)
    return found


class ImageInputs:
    """Image files as the run's test samples: a range gives their names and `(B, *raw_shape)`."""

    def __init__(self, paths: Sequence[str], data: Any, spec: Spec) -> None:
        self.paths, self.shape, self.max_value = paths, spec.raw_shape, spec.max_value
        channels, _, size = spec.source_shape or spec.raw_shape
        resize_mode: Any = getattr(data, "resize_mode", "crop")
        max_pixels = getattr(data, "max_pixels", MAX_PIXELS)
        files = ImageFiles(Paths(Path(), paths), channels, size, resize_mode, max_pixels)
        self.test = data.dataset(Samples(x=files, y=torch.empty(0)), "test")

    def __getitem__(self, numbers: range) -> Part:
        images: dict[int, Tensor] = {}
        errors: dict[int, str] = {}
        for i in numbers:
            try:
                images[i] = self._prepare(self.test.samples.x[i])
            except Exception as problem:  # a transform's too: no file stops the others
                reason = str(problem).removeprefix(f"{self.paths[i]}: ")
                errors[i] = reason.partition("; ")[0]
        first = next(iter(images.values()), torch.zeros(self.shape, dtype=torch.uint8))
        blank = torch.zeros_like(first)  # for files that cannot be read
        paths = [os.fsencode(self.paths[i]).decode("utf-8", "replace") for i in numbers]
        names: Names = {"path": paths, "error": [errors.get(i) for i in numbers]}
        return names, torch.stack([images.get(i, blank) for i in numbers])

    def _prepare(self, x: Tensor) -> Tensor:
        if self.max_value != 255:  # the training's pixels have another range than the file's
            scaled = x * (self.max_value / 255)
            x = scaled if self.max_value <= 1 else scaled.round().to(x.dtype)
        x = x if self.test.transform is None else self.test.transform(x)
        if x.shape != self.shape:
            raise InputError(f"comes to {tuple(x.shape)}, and the net takes {self.shape}")
        return x


def load_images(paths: Sequence[str], data: Any, spec: Spec, size: int) -> Any:
    """Load the files in batches, with as many worker processes as the run's evaluation."""
    starts = range(0, len(paths), size)
    batches: Any = [range(start, min(start + size, len(paths))) for start in starts]
    workers = data.choose_workers(one_by_one=True)
    dataset: Any = ImageInputs(paths, data, spec)
    few = len(batches) <= 2 * workers  # starting the workers would take longer
    return make_loader(dataset, batches, 0 if few else workers)


def load_rows(
    paths: Sequence[str], data: Any, spec: Spec, size: int, notes: list[str], scratch: str = ""
) -> Iterator[Part]:
    """Load the tables' rows in batches; `notes` receives ignored columns and unseen categories.

    A file in the folder `scratch` is standard input.
    """
    table, ignored = TableFile(""), [spec.target, *spec.targets]
    if isinstance(data, Table):
        table = data.file
        ignored += [*data.targets, *data.split_by.names, *data.drop]
    features = [column.name for column in spec.columns]
    categories = [column.name for column in spec.columns if column.kind == "category"]
    unseen: dict[str, tuple[int, str]] = {}
    for word in paths:
        path = os.path.abspath(word)
        typed = "stdin" if scratch and os.path.dirname(word) == scratch else word
        file = dataclasses.replace(table, path=path)
        try:
            names = [name for name in file.read_header() if name and name not in ignored]
            encode_frame(pd.DataFrame(columns=names), spec.columns, notes)  # refuses a bad header
            for frame in file.read_frames(features, categories):
                if frame.empty:
                    raise InputError(f"{path}: a header and no rows; add rows below it")
                x, row = encode_frame(frame, spec.columns), int(frame.index[0]) + 1
                for name, (count, example) in unseen_in(frame, x, spec.columns).items():
                    unseen[name] = unseen.get(name, (0, ""))[0] + count, example
                for batch in torch.split(torch.from_numpy(x), size):
                    rows: Names = {"row": range(row, row + len(batch))}
                    yield {"path": [typed] * len(batch), **rows} if len(paths) > 1 else rows, batch
                    row += len(batch)
        except InputError as error:
            lines = [line.removeprefix("data.path: ") for line in error.lines]
            lines = [line if path in line else f"{path}: {line}" for line in lines]
            raise InputError([line.replace(path, typed) for line in lines]) from None
    for name, (count, example) in unseen.items():
        notes.append(
            f"{name}: {format_count(count, 'row')} with values that training did not have, "
            f"such as {example!r}"
        )
