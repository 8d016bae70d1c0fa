"""The inputs of predictions: images or tables as the run's test samples."""

from __future__ import annotations

import dataclasses
import glob
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from src.kindling.data.spec import Spec

    Names = dict[str, Sequence[Any]]  # of some rows, by column
    Parts = Iterator[tuple[Names, Tensor]]  # and their raw input `(B, *raw_shape)`

TABLES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
MAX_PIXELS = 100_000_000  # of an image, where the run's data sets no limit


def find(inputs: Sequence[str], images: bool, scratch: str) -> list[str]:
    """The images or tables that the words name; `scratch` is a folder for standard input.

    Raises:
        InputError: with a line for each word that names nothing, or the wrong kind of file.
    """
    from src.kindling.data.images.decode import EXTENSIONS

    kinds = {"pictures": tuple(sorted(EXTENSIONS)), "tables": TABLES}
    what, other = ("pictures", "tables") if images else ("tables", "pictures")
    found, lines = list[str](), list[str]()
    for word in inputs:
        path, problem = os.path.expanduser(word), "no file matches"
        if word == "-":
            inside = [os.path.join(scratch, "stdin" if images else "stdin.csv")]
            with open(inside[0], "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        elif os.path.isdir(path):
            problem = f"no {what} in this folder ({', '.join(kinds[what])})"
            inside = sorted(
                os.path.join(folder, name)
                for folder, _, names in os.walk(path, followlinks=True)
                for name in names
                if name[0] != "." and name.lower().endswith(kinds[what])
            )
        elif os.path.exists(path):
            inside = [path]
        else:
            inside = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            if not glob.has_magic(path):
                beside = (other.name for other in Path(path).parent.glob("*"))
                problem = f"no such file or folder{did_you_mean(os.path.basename(path), beside)}"
        lines += [] if inside else [f"{word}: {problem}"]
        if wrong := [name for name in inside if name.lower().endswith(kinds[other])]:
            lines.append(f"{wrong[0]}: this run predicts from {what}, not from {other}")
        found += inside
    if lines:
        raise InputError(lines)
    return found


class Pictures:
    """Image files as the run's test samples: a range gives their names and `(B, *raw_shape)`."""

    def __init__(self, paths: Sequence[str], data: Any, spec: Spec) -> None:
        import torch

        from src.kindling.data.images.image_data import ImageFiles, Paths
        from src.kindling.data.samples import Samples

        self.paths, self.shape, self.max_value = (
            Paths(Path(), paths),
            spec.raw_shape,
            spec.max_value,
        )
        channels, _, size = spec.source_shape or spec.raw_shape
        resize_mode: Any = getattr(data, "resize_mode", "crop")
        files = ImageFiles(
            self.paths, channels, size, resize_mode, getattr(data, "max_pixels", MAX_PIXELS)
        )
        self.test = data.dataset(Samples(x=files, y=torch.empty(0)), "test")

    def __getitem__(self, numbers: range) -> tuple[Names, Tensor]:
        import torch

        read: list[Tensor | None] = []
        errors: list[str | None] = []
        for i in numbers:
            x, error = None, None
            try:
                x = self._prepared(self.test.samples.x[i])
            except Exception as problem:  # a transform's too: no file stops the others
                error = str(problem).removeprefix(f"{self.paths.path(i)}: ").partition("; ")[0]
            read.append(x)
            errors.append(error)
        blank = torch.zeros(
            self.shape, dtype=next((x.dtype for x in read if x is not None), torch.uint8)
        )
        names = [os.fsencode(self.paths[i]).decode("utf-8", "replace") for i in numbers]
        return {"path": names, "error": errors}, torch.stack(
            [blank if x is None else x for x in read]
        )

    def _prepared(self, x: Tensor) -> Tensor:
        if self.max_value != 255:  # the training's pixels have another range than the file's
            x = (
                x * (self.max_value / 255)
                if self.max_value <= 1
                else (x * (self.max_value / 255)).round().to(x.dtype)
            )
        x = x if self.test.transform is None else self.test.transform(x)
        if x.shape != self.shape:
            raise InputError(f"comes to {tuple(x.shape)}, and the net takes {self.shape}")
        return x


def pictures(paths: Sequence[str], data: Any, spec: Spec, size: int) -> Any:
    """A loader of the files in batches, with as many worker processes as the run's evaluation."""
    from torch import Generator

    from src.kindling.config.cores import usable_cores
    from src.kindling.data.loader import Loader
    from src.kindling.runs.signals import in_worker

    batches: Any = [
        range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)
    ]
    most = max(1, usable_cores() // data.num_threads)
    workers = most if data.asked_workers == "auto" else min(most, data.asked_workers)
    workers = (
        workers if len(batches) > 2 * workers else 0
    )  # for a few files, starting them takes longer
    found: Any = Pictures(paths, data, spec)
    return Loader(
        found,
        None,
        sampler=batches,
        num_workers=workers,
        worker_init_fn=in_worker,
        generator=Generator(),
    )


def table_rows(paths: Sequence[str], data: Any, spec: Spec, size: int, notes: list[str]) -> Parts:
    """The tables' rows in batches.

    Args:
        notes: receives the columns left out and the categories not seen in training.
    """
    import pandas as pd
    import torch

    from src.kindling.data.tables.encode import encode_frame, unseen_in
    from src.kindling.data.tables.read import TableFile
    from src.kindling.data.tables.table import Table

    table, apart = TableFile(""), [spec.target, *spec.targets]
    if isinstance(data, Table):
        table, apart = (
            data.file,
            [*apart, *data.targets, data.group_column or "", data.time or "", *data.drop],
        )
    categories = [column.name for column in spec.columns if column.kind == "category"]
    unseen: dict[str, tuple[int, str]] = {}
    for word in paths:
        path = os.path.abspath(word)
        file = dataclasses.replace(table, path=path)
        try:
            names = [name for name in file.read_header() if name and name not in apart]
            encode_frame(
                pd.DataFrame(columns=names), spec.columns, notes
            )  # refuses the header before a row is read
            for frame in file.read_frames([column.name for column in spec.columns], categories):
                x, row = encode_frame(frame, spec.columns), int(frame.index[0]) + 1
                for name, (count, example) in unseen_in(frame, x, spec.columns).items():
                    unseen[name] = unseen.get(name, (0,))[0] + count, example
                for start in range(0, len(x), size):
                    some = torch.from_numpy(x[start : start + size])
                    rows: Names = {"row": range(row + start, row + start + len(some))}
                    yield {"path": [word] * len(some), **rows} if len(paths) > 1 else rows, some
        except InputError as error:
            lines = [line.removeprefix("data.path: ") for line in error.lines]
            raise InputError(
                [line if path in line else f"{path}: {line}" for line in lines]
            ) from None
    for name, (count, example) in unseen.items():
        notes.append(
            f"{name}: {count:,} rows hold what the training did not have, such as {example!r}"
        )
