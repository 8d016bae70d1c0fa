"""Predict from images or tables as the run was trained on, into CSV, JSON lines or Parquet.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE]
        [--gallery FILE.html] [--top K]

Files are prepared as the run's test samples; the run's own data is not needed.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from src.kindling.config.compose import get
from src.kindling.config.errors import InputError
from src.kindling.deploy.predict_inputs import MAX_PIXELS, find, pictures, table_rows
from src.kindling.deploy.prediction_writers import MaskFiles, page, writer
from src.kindling.runs.files import shown, write

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from src.kindling.data.spec import Spec
    from src.kindling.deploy.predict_inputs import Names, Parts
    from src.kindling.training.trained_run import TrainedRun

    Columns = dict[str, Tensor]

OUTPUTS = (".csv", ".jsonl", ".parquet")
# The minimum table rows in a batch, and about how many predictions are held before writing.
AT_ONCE, HELD = 1024, 8192
# The number of predictions in the terminal's preview and in a gallery.
PREVIEW, GALLERY = 10, 300


class Predicted(NamedTuple):
    """The file, its number of rows, how many of them hold an error, the first rows, and notes."""

    path: Path
    rows: int
    unreadable: int
    first: pd.DataFrame
    notes: list[str]


def predict(
    run: TrainedRun,
    inputs: Sequence[str],
    out: Path | None = None,
    gallery: Path | None = None,
    batch_size: int | None = None,
    top: int | None = None,
) -> Predicted:
    """Write a row for each image, or for each table row; memory does not grow with their number.

    Args:
        run: its checkpoint is used.
        inputs: files, folders, globs, or `-` for standard input.
        out: a .csv, .jsonl or .parquet file; default `predictions.csv` in the run's directory. Its
            columns: `path` or `row`; those of the task's `to_frame`, such as the prediction and
            class probabilities, or values in the target's unit; `error`. Masks are PNG files in a
            folder beside it, named in the column.
        gallery: an HTML file for the first 300 images and their predictions.
        batch_size: samples per batch; default the run's, and at least 1,024 table rows.
        top: give this many most probable classes instead of the probability of each.

    Raises:
        InputError: when a file is missing or of the wrong kind, or a table does not fit.
    """
    from src.kindling.analysis.outputs import require_outputs
    from src.kindling.analysis.predictions import require_columns
    from src.kindling.config import instantiate
    from src.kindling.runs.signals import Interrupts
    from src.kindling.training.warning_filters import quiet

    quiet()
    out = out or run.path / "predictions.csv"
    spec = check_options(run, out, gallery, batch_size, top)
    given = instantiate.values(run.config)
    data: Any = instantiate.build(
        run.config, "data", seed=given.seed, num_threads=given.num_threads
    )
    require_columns(run.task, "predict from files")
    outputs = require_outputs(run.task, "predict from files")
    images = spec.kind == "image"
    size = batch_size or (data.batch_size if images else max(data.batch_size, AT_ONCE))
    with (
        Interrupts(),
        tempfile.TemporaryDirectory() as scratch,
        writer(out) as write_rows,
        MaskFiles(out, data, spec) as masks,
    ):
        paths = find(inputs, images, scratch)
        if out.exists() and any(os.path.samefile(out, path) for path in paths):
            raise InputError(f"--out {out}: is one of the inputs; name another file")
        notes: list[str] = []
        answers = predict_batches(run, spec, *_load(paths, data, spec, size, notes))
        held = max(1, HELD // (size * math.prod(spec.target_shape)))
        groups = iter(lambda: list(islice(answers, held)), [])
        renames = {"path": {os.path.join(scratch, "stdin"): "-"}}
        frames = (_frame(some, outputs, top, masks).replace(renames) for some in groups)
        first, rows, unreadable = _write_frames(frames, write_rows)
        if gallery:
            write(gallery, page(first, paths, run, getattr(data, "max_pixels", MAX_PIXELS), masks))
    return Predicted(out, rows, unreadable, first, notes)


def _load(
    paths: Sequence[str], data: Any, spec: Spec, size: int, notes: list[str]
) -> tuple[Parts, int | None]:
    """The batches of raw input, and their number where it is known."""
    if spec.kind == "image":
        return pictures(paths, data, spec, size), -(-len(paths) // size)
    return table_rows(paths, data, spec, size, notes), None


def _write_frames(
    frames: Iterator[pd.DataFrame], write_rows: Callable[[pd.DataFrame], None]
) -> tuple[pd.DataFrame, int, int]:
    """Write frames; the first rows, the number of rows, and of those with an error."""
    import pandas as pd

    first, rows, unreadable = None, 0, 0
    for frame in frames:
        write_rows(frame)
        if first is None or len(first) < GALLERY:
            first = pd.concat([first, frame]).head(GALLERY)
        rows += len(frame)
        unreadable += int(frame["error"].count()) if "error" in frame else 0
    assert first is not None  # inputs without a row are refused
    return first, rows, unreadable


def check_options(
    run: TrainedRun,
    out: Path,
    gallery: Path | None,
    batch_size: int | None,
    top: int | None,
) -> Spec:
    """Check the options against the run, and return the run's spec.

    Raises:
        InputError: with a line for each mistake.
    """
    spec = run.require_spec("predicting from files")
    lines = []
    if out.suffix not in OUTPUTS:
        lines.append(f"--out {out}: expected a name that ends in .csv, .jsonl or .parquet")
    if gallery and spec.kind != "image":
        lines.append(
            f"--gallery {gallery}: shows images, and {shown(run.path)} predicts from tables"
        )
    if batch_size is not None and batch_size < 1:
        lines.append(f"--batch-size: expected at least 1, got {batch_size}")
    if top is not None and not 1 <= top <= len(spec.classes):
        lines.append(f"--top: expected 1 to the number of classes, {len(spec.classes)}, got {top}")
    if top is not None and spec.classes and spec.target_type != "class":
        target = {"mask": "masks"}.get(spec.target_type, spec.target_type)
        lines.append(
            f"--top {top}: is for one class out of several, and this run predicts {target}"
        )
    if lines:
        raise InputError(lines)
    return spec


def predict_batches(
    run: TrainedRun, spec: Spec, source: Parts, steps: int | None
) -> Iterator[tuple[Names, Columns]]:
    """The columns of `predict_step` for batches of raw input, on the run's kind of device.

    Args:
        steps: the number of batches, for the progress bar; None where it is unknown.
    """
    import torch
    from rich.progress import track

    from src.kindling.analysis.predictions import predict_batch
    from src.kindling.config import instantiate

    torch.set_num_threads(instantiate.values(run.config).num_threads or 1)
    device: Any = torch.accelerator.current_accelerator(check_available=True)
    if device is None or get(run.config.values, "trainer.accelerator") == "cpu":
        device = "cpu"
    task, preprocess = run.task.to(device), run.preprocess.to(device)
    y = torch.zeros(1, *spec.target_shape, dtype=torch.int64 if spec.classes else torch.float32)
    y = y.to(device)
    hidden = not sys.stdout.isatty()
    for names, x in track(source, "predicting", steps, transient=True, disable=hidden):
        with torch.inference_mode():
            batch = preprocess(x.to(device)), y.expand(len(x), *y.shape[1:])
            columns = predict_batch(task, batch, 0)
        columns = {name: column.cpu() for name, column in columns.items()}
        columns.pop("target", None)
        yield names, columns
    task.cpu()


def _frame(
    some: list[tuple[Names, Columns]], outputs: Any, top: int | None, masks: MaskFiles
) -> pd.DataFrame:
    """The rows of the file: the names, and what the task's outputs make of its `predict_step`."""
    import pandas as pd
    import torch

    names = pd.DataFrame({key: [v for names, _ in some for v in names[key]] for key in some[0][0]})
    errors = names.pop("error").astype("string") if "error" in names else None
    columns = {key: torch.cat([columns[key] for _, columns in some]) for key in some[0][1]}
    table = outputs.to_frame(columns, top)
    for key, values in table.items():
        if getattr(values, "ndim", 1) == 3:
            readable = [True] * len(names) if errors is None else errors.isna()
            table[key] = masks.add(names["path"], values, readable)
        if isinstance(table[key][0], str):
            table[key] = pd.array(table[key], dtype="string")
    frame = pd.DataFrame(table)
    if errors is None:
        return pd.concat([names, frame], axis=1)
    return pd.concat([names, frame.mask(errors.notna()), errors], axis=1)
