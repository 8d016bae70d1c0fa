"""Predict from files, pictures or tables as the run was trained on, into a CSV, JSON lines or Parquet file.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE] [--gallery FILE.html] [--top K]

Files are prepared as the run prepares its test samples; its own data need not be there any more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.command import Parser, run_command
from src.kindling.config.compose import change
from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown

if TYPE_CHECKING:
    from torch import Tensor

    Names = dict[str, Sequence[Any]]  # of some rows, by column
    Parts = Iterator[tuple[Names, Tensor]]
from src.kindling.deploy.predict import PREVIEW, Predicted, predict


def main(argv: list[str]) -> Predicted:
    parser = Parser("predict", "RUN INPUT ... [data.key=value ...] [--out FILE] [--gallery FILE.html] [--batch-size N] "
                    "[--top K]", "Predict from files with a run's best checkpoint.")  # fmt: skip
    parser.add_argument("run", metavar="RUN", help="a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'")
    parser.add_argument("words", nargs="+", metavar="INPUT", help="files, folders or globs of pictures or tables, or - for "
                        "standard input; and data.key=value, to read them otherwise than in training")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv, .jsonl or .parquet; else <run>/predictions.csv")
    parser.add_argument("--gallery", type=Path, metavar="FILE.html", help="an HTML page that shows the first pictures")
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples that the net takes at once")
    parser.add_argument("--top", type=int, metavar="K", help="so many likeliest classes, not the probability of each")
    flags = parser.read(argv)
    from src.kindling.training.trained_run import load_run

    run = load_run(flags.run)
    changes = [word for word in flags.words if word.startswith("data.") and "=" in word and not os.path.exists(word)]
    run.config = change(run.config, changes)
    if not (inputs := [word for word in flags.words if word not in changes]):
        raise InputError("no INPUT: name files, folders or globs, or - for standard input")

    from src.kindling.config import instantiate

    instantiate.check(run.config, trained=True)
    started = time.perf_counter()
    found = predict(run, inputs, flags.out, flags.gallery, flags.batch_size, flags.top)
    seconds = time.perf_counter() - started
    names = [name for name in found.first if flags.top or not name.startswith("probability_")]
    preview = found.first.head(PREVIEW)[names].astype(object).fillna("")
    print(preview.to_string(index=False, float_format="{:.4g}".format))
    print(f"\npredicted  {found.rows:,} rows in {seconds:.1f} s ({found.rows / seconds:,.0f} a second)")
    for note in found.notes:
        print(f"note       {note}")
    print(f"saved      {shown(found.path)}" + (f"\ngallery    {shown(flags.gallery)}" if flags.gallery else ""))
    if found.unreadable:
        print(f"unreadable {found.unreadable:,}; the column 'error' says why")
        raise SystemExit(3)
    return found


if __name__ == "__main__":
    run_command(main)
