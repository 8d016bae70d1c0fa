"""Predict from images or tables as the run was trained on, into CSV, JSON lines or Parquet.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE]
        [--gallery FILE.html] [--top K]

Files are prepared as the run's test samples; the run's own data is not needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from rich.progress import track
from torch import Tensor

from src.kindling.analysis.outputs import Outputs, require_outputs
from src.kindling.analysis.predictions import predict_batch, require_columns
from src.kindling.config import instantiate
from src.kindling.config.compose import change, record_path
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.images.image_module import ImageModule
from src.kindling.data.preprocess import raw_device
from src.kindling.data.spec import Spec
from src.kindling.deploy.predict_inputs import MAX_PIXELS, Names, Part, find, load_images, load_rows
from src.kindling.deploy.prediction_writers import PredictionWriter, render_gallery, staging_folder
from src.kindling.runs.files import write
from src.kindling.runs.signals import Interrupts
from src.kindling.training.trained_run import TrainedRun
from src.kindling.training.warning_filters import quiet

MIN_ROWS = 1024  # table rows in a batch


def predict(
    run: TrainedRun,
    inputs: Sequence[str],
    out: Path | None = None,
    gallery: Path | None = None,
    batch_size: int | None = None,
    top: int | None = None,
    exact: bool = False,
) -> PredictionWriter:
    """Write a row for each image, or for each table row; memory does not grow with their number.

    Args:
        run: its checkpoint is used.
        inputs: files, folders, globs, or `-` for standard input.
        out: a .csv, .jsonl or .parquet file; default `predictions.csv` in the run's directory. Its
            columns: `path` or `row`; those of the task's `to_frame`; `error`. Masks are PNG files
            in a folder beside it, named in the column.
        gallery: an HTML file for the first 300 images and their predictions.
        batch_size: samples per batch; default the run's, and at least 1,024 table rows.
        top: write this many most probable classes instead of all probabilities.
        exact: leave texts in CSV as they are, also those that a spreadsheet would run.

    Returns:
        The writer, with the number of rows, the first ones, and notes.

    Raises:
        InputError: when a file is missing or of the wrong kind, or a table does not fit.
    """
    quiet()
    out = out or run.path / "predictions.csv"
    spec = run.require_spec("predicting from files")
    require_columns(run.task, "predict from files")
    outputs = require_outputs(run.task, "predict from files")
    images = spec.kind == "image"
    _check_options(outputs, images, out, gallery, batch_size, top)
    data = _build_data(run)
    size = batch_size or max(data.batch_size, 1 if images else MIN_ROWS)
    with Interrupts(), staging_folder(out) as folder:
        paths = find(inputs, images, str(folder))
        if out.exists() and any(os.path.samefile(out, path) for path in paths):
            raise InputError(f"--out {out}: is one of the inputs; name another file")
        # Transforms cannot be undone: with them, a mask keeps the size of the net's input.
        mode = None if data.transforms["test"] else getattr(data, "resize_mode", "crop")
        writer = PredictionWriter(out, folder, mode, exact)
        if images:
            batches = load_images(paths, data, spec, size)
        else:
            batches = load_rows(paths, data, spec, size, writer.notes, str(folder))
        for names, columns in _predict_batches(run, spec, batches):
            writer.write(names, outputs.to_frame(columns, top))
        writer.close()
        if gallery:
            target = f" of {spec.target}" if spec.target else ""
            title = f"Predictions{target}: {record_path(run.path)}"
            most = getattr(data, "max_pixels", MAX_PIXELS)
            write(gallery, render_gallery(title, writer.first, paths, most, folder))
    return writer


def _build_data(run: TrainedRun) -> Any:
    """The run's data, not set up; seeded, since some nets draw random numbers in evaluation too."""
    given = instantiate.values(run.config)
    seed_everything(given.seed, verbose=False)
    data = instantiate.build(run.config, "data", seed=given.seed, num_threads=given.num_threads)
    if isinstance(data, DataModule):
        return data
    images: Any = ImageModule  # other data with a spec: its files are read as those of a folder
    transforms = getattr(data, "eval_transforms", None)
    return images(batch_size=getattr(data, "batch_size", 64), eval_transforms=transforms)


def split_inputs(run: TrainedRun, words: Sequence[str]) -> list[str]:
    """Apply `data.key=value` words to the run's config, and return the others, the inputs."""
    keys = [word for word in words if word.startswith("data.") and "=" in word]
    changes = [word for word in keys if not os.path.exists(word)]
    run.config = change(run.config, changes)
    if not (inputs := [word for word in words if word not in changes]):
        raise InputError("no INPUT: name files, folders or globs, or - for standard input")
    instantiate.check(run.config, trained=True)
    return inputs


def _check_options(
    outputs: Outputs, images: bool, out: Path, gallery: Any, batch_size: Any, top: Any
) -> None:
    """Raise an InputError with a line for each mistake."""
    lines = []
    kind, classes = type(outputs).__name__.lower(), len(outputs.names)
    if out.suffix not in (".csv", ".jsonl", ".parquet"):
        lines.append(f"--out {out}: expected a name that ends in .csv, .jsonl or .parquet")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        lines.append(f"--out {out}: needs pyarrow; install it: pip install -e '.[parquet]'")
    if gallery and not images:
        lines.append(f"--gallery {gallery}: shows images, and this run predicts from tables")
    if batch_size is not None and batch_size < 1:
        lines.append(f"--batch-size: expected at least 1, got {batch_size}")
    if top is not None and (outputs.decision["kind"] != "argmax" or len(outputs.shape) > 1):
        lines.append(f"--top {top}: is for one class out of several, and this run predicts {kind}")
    elif top is not None and not 1 <= top <= classes:
        lines.append(f"--top: expected 1 to the number of classes, {classes}, got {top}")
    if lines:
        raise InputError(lines)


def _predict_batches(
    run: TrainedRun, spec: Spec, batches: Iterable[Part]
) -> Iterator[tuple[Names, dict[str, Tensor]]]:
    """The columns of `predict_step` for batches of raw input, on the run's kind of device."""
    torch.set_num_threads(instantiate.values(run.config).num_threads or 1)
    device = run.device
    task, raw = run.task.to(device), raw_device(run.preprocess, device)
    preprocess = run.preprocess.to(raw)
    dtype = torch.int64 if spec.classes else torch.float32
    hidden = not sys.stdout.isatty()
    for names, x in track(batches, "predicting", transient=True, disable=hidden):
        with torch.inference_mode():
            y = torch.zeros(len(x), *spec.target_shape, dtype=dtype, device=device)
            columns = predict_batch(task, (preprocess(x.to(raw)).to(device), y), 0)
        columns.pop("target", None)
        yield names, {name: column.cpu() for name, column in columns.items()}
    task.cpu()
