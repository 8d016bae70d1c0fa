"""Predict from files, pictures or tables as the run was trained on, into a CSV, JSON lines or Parquet file.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE] [--gallery FILE.html] [--top K]

Files are prepared as the run prepares its test samples; its own data need not be there any more.
"""

from __future__ import annotations

import glob
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from src.kindling.config.compose import get
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.deploy.prediction_writers import MaskFiles, page, writer
from src.kindling.runs.files import shown, write

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from src.kindling.data.spec import Spec
    from src.kindling.training.trained_run import TrainedRun

    Names = dict[str, Sequence[Any]]  # of some rows, by column
    Parts = Iterator[tuple[Names, Tensor]]  # and their raw input `(B, *raw_shape)`

OUTPUTS = (".csv", ".jsonl", ".parquet")
TABLES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
# The fewest rows of a table that the net takes at once, and about how many predictions are held before they are written.
AT_ONCE, HELD = 1024, 8192
# How many of the first predictions the terminal and a gallery show, and the side of a gallery's pictures.
PREVIEW, GALLERY = 10, 300
MAX_PIXELS = 100_000_000  # of a picture, where the run's data does not say it


class Predicted(NamedTuple):
    """The file, its number of rows, how many of them hold an error instead of a prediction, the first rows, and notes."""

    path: Path
    rows: int
    unreadable: int
    first: pd.DataFrame
    notes: list[str]


def predict(run: TrainedRun, inputs: Sequence[str], out: Path | None = None, gallery: Path | None = None,
            batch_size: int | None = None, top: int | None = None) -> Predicted:  # fmt: skip
    """Write a row for each picture, or for each row of the tables; memory does not grow with their number.

    Args:
        run: its checkpoint is used.
        inputs: files, folders, globs, or `-` for standard input.
        out: a .csv, .jsonl or .parquet file; `predictions.csv` in the run's directory when left out. Its columns: `path`
            or `row`; what the task's `rows` gives, such as the prediction, its probability and that of each class, or
            values in the target's unit; `error`. Masks are PNG files in a folder beside it, which the column names.
        gallery: an HTML file for the first 300 pictures and their predictions.
        batch_size: samples that the net takes at once; left out, the run's, and for tables at least 1,024.
        top: how many of the likeliest classes to give, instead of the probability of each.

    Raises:
        InputError: when there is no such file, it is of the wrong kind, or a table does not fit.
    """
    import pandas as pd
    import torch
    from rich.progress import track

    from src.kindling.analysis.predictions import able
    from src.kindling.config import instantiate
    from src.kindling.data.batch import Batch
    from src.kindling.runs.signals import Interrupts
    from src.kindling.training.warning_filters import quiet

    quiet()
    spec, values, out = run.spec, instantiate.values(run.config), out or run.path / "predictions.csv"
    images, several = spec.kind == "image", {"mask": "masks"}.get(spec.predicts, spec.predicts)
    mistakes = {
        f"--out {out}: expected a name that ends in .csv, .jsonl or .parquet": out.suffix not in OUTPUTS,
        f"--gallery {gallery}: shows pictures, and {shown(run.path)} predicts from tables": gallery and not images,
        f"--batch-size: expected at least 1, got {batch_size}": batch_size is not None and batch_size < 1,
        f"--top: expected 1 to the number of classes, {len(spec.classes)}, got {top}":
            top is not None and not 1 <= top <= len(spec.classes),
        f"--top {top}: is for one class out of several, and this run predicts {several}":
            top is not None and spec.classes and spec.predicts != "class",
    }  # fmt: skip
    if any(mistakes.values()):
        raise InputError([line for line, made in mistakes.items() if made])
    data = instantiate.build(run.config, "data", seed=values.seed, threads=values.threads)  # reads nothing yet
    torch.set_num_threads(values.threads or 1)
    there = torch.accelerator.current_accelerator(check_available=True)
    able(run.task, "predict from files", "predict_step", "rows")
    task: Any = run.task.to(there if there and get(run.config.values, "trainer.accelerator") != "cpu" else "cpu")
    y = torch.zeros(1, *spec.target_shape, dtype=torch.int64 if spec.classes else torch.float32)

    def answer(part: tuple[Names, Tensor]) -> tuple[Names, dict[str, Tensor]]:
        names, x = part
        batch = Batch(x, y.expand(len(x), *y.shape[1:]), torch.arange(len(x)), (0, 0))
        answers = task.predict_step(data.transfer_batch_to_device(batch, task.device, 0), 0)
        return names, {name: column.cpu() for name, column in answers.items() if name not in ("index", "target")}

    notes: list[str] = []
    first, rows, unreadable = None, 0, 0
    with (Interrupts(), tempfile.TemporaryDirectory() as scratch, writer(out) as write_rows,
          MaskFiles(out, data, spec) as masks, torch.inference_mode()):  # fmt: skip
        paths = find(inputs, images, scratch)
        if out.exists() and any(os.path.samefile(out, path) for path in paths):
            raise InputError(f"--out {out}: is one of the inputs; name another file")
        size = batch_size or (data.batch_size if images else max(data.batch_size, AT_ONCE))
        source = pictures(paths, data, spec, size) if images else table_rows(paths, data, spec, size, notes)
        steps = -(-len(paths) // size) if images else None
        answers = map(answer, track(source, "predicting", steps, transient=True, disable=not sys.stdout.isatty()))
        # To make a table of every batch would take longer than many a net does.
        while some := list(islice(answers, max(1, HELD // (size * math.prod(spec.target_shape))))):
            frame = _frame(some, task, top, masks).replace({"path": {os.path.join(scratch, "stdin"): "-"}})
            if first is None or len(first) < GALLERY:
                first = pd.concat([some for some in (first, frame) if some is not None]).head(GALLERY)
            rows, unreadable = rows + len(frame), unreadable + (int(frame["error"].count()) if images else 0)
            write_rows(frame)
        assert first is not None  # what would give no row has been refused
        if gallery:
            write(gallery, page(first, paths, run, getattr(data, "max_pixels", MAX_PIXELS), masks))
    task.cpu()
    return Predicted(out, rows, unreadable, first, notes)


def find(inputs: Sequence[str], images: bool, scratch: str) -> list[str]:
    """The pictures, or the tables, that the words name; the folder `scratch` takes what standard input holds.

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
            inside = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path, followlinks=True)
                            for name in names if name[0] != "." and name.lower().endswith(kinds[what]))  # fmt: skip
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
    """Picture files as the run's test samples: a range of numbers gives their names and `(B, *raw_shape)`."""

    def __init__(self, paths: Sequence[str], data: Any, spec: Spec) -> None:
        import torch

        from src.kindling.data.batch import Samples
        from src.kindling.data.images.image_data import ImageFiles, Paths

        self.paths, self.shape, self.white = Paths(Path(), paths), spec.raw_shape, spec.white
        channels, _, size = spec.source_shape or spec.raw_shape
        files = ImageFiles(self.paths, channels, size, getattr(data, "fit", "crop"), whole=False, on_error="error",
                           max_pixels=getattr(data, "max_pixels", MAX_PIXELS), error_limit=1.0)  # fmt: skip
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
        blank = torch.zeros(self.shape, dtype=next((x.dtype for x in read if x is not None), torch.uint8))
        names = [os.fsencode(self.paths[i]).decode("utf-8", "replace") for i in numbers]
        return {"path": names, "error": errors}, torch.stack([blank if x is None else x for x in read])

    def _prepared(self, x: Tensor) -> Tensor:
        if self.white != 255:  # the training's pixels have another range than the file's
            x = x * (self.white / 255) if self.white <= 1 else (x * (self.white / 255)).round().to(x.dtype)
        x = x if self.test.transform is None else self.test.transform(x)
        if x.shape != self.shape:
            raise InputError(f"comes to {tuple(x.shape)}, and the net takes {self.shape}")
        return x


def pictures(paths: Sequence[str], data: Any, spec: Spec, size: int) -> Any:
    """A loader of the files in batches, which as many processes decode as the run's evaluation takes."""
    from torch import Generator

    from src.kindling.config.cores import usable_cores
    from src.kindling.data.loader import Loader
    from src.kindling.runs.signals import in_worker

    batches: Any = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
    most = max(1, usable_cores() // data.threads)
    workers = most if data.asked_workers == "auto" else min(most, data.asked_workers)
    workers = workers if len(batches) > 2 * workers else 0  # for a few files, starting them takes longer
    found: Any = Pictures(paths, data, spec)
    return Loader(found, None, sampler=batches, num_workers=workers, worker_init_fn=in_worker, generator=Generator())


def table_rows(paths: Sequence[str], data: Any, spec: Spec, size: int, notes: list[str]) -> Parts:
    """The tables' rows in batches; notes receives the columns left out and the categories never seen in training."""
    import pandas as pd
    import torch

    from src.kindling.data.tables.encode import encode_frame, unseen_in
    from src.kindling.data.tables.read import Format, frames, header
    from src.kindling.data.tables.table import Table

    form, apart = Format(), [spec.target, *spec.targets]
    if isinstance(data, Table):
        form, apart = data.format, [*apart, *data.targets, data.group or "", data.time or "", *data.drop]
    categories = [column.name for column in spec.columns if column.kind == "category"]
    unseen: dict[str, tuple[int, str]] = {}
    for word in paths:
        path = os.path.abspath(word)
        try:
            names = [name for name in header(path, form) if name and name not in apart]
            encode_frame(pd.DataFrame(columns=names), spec.columns, notes)  # refuses the header before a row is read
            for frame in frames(path, form, [column.name for column in spec.columns], categories):
                x, row = encode_frame(frame, spec.columns), int(frame.index[0]) + 1
                for name, (count, example) in unseen_in(frame, x, spec.columns).items():
                    unseen[name] = unseen.get(name, (0,))[0] + count, example
                for start in range(0, len(x), size):
                    some = torch.from_numpy(x[start : start + size])
                    rows: Names = {"row": range(row + start, row + start + len(some))}
                    yield {"path": [word] * len(some), **rows} if len(paths) > 1 else rows, some
        except InputError as error:
            lines = [line.removeprefix("data.path: ") for line in error.lines]
            raise InputError([line if path in line else f"{path}: {line}" for line in lines]) from None
    for name, (count, example) in unseen.items():
        notes.append(f"{name}: {count:,} rows hold what the training did not have, such as {example!r}")


def _frame(some: list[tuple[Names, dict[str, Tensor]]], task: Any, top: int | None, masks: MaskFiles) -> pd.DataFrame:
    """The rows of the file, from the names and from what the task makes of its `predict_step`."""
    import pandas as pd
    import torch

    names = pd.DataFrame({key: [value for names, _ in some for value in names[key]] for key in some[0][0]})
    errors = names.pop("error").astype("string") if "error" in names else None
    table = task.rows({key: torch.cat([answers[key] for _, answers in some]) for key in some[0][1]}, top)
    for key, values in table.items():
        if getattr(values, "ndim", 1) == 3:
            table[key] = masks.add(names["path"], values, [True] * len(names) if errors is None else errors.isna())
    frame = pd.DataFrame({
        key: pd.array(values, dtype="string") if isinstance(values[0], str) else values for key, values in table.items()
    })  # fmt: skip
    return pd.concat([names, frame] if errors is None else [names, frame.mask(errors.notna()), errors], axis=1)
