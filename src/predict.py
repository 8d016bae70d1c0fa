"""Predict from images or tables as the run was trained on, into CSV, JSON lines or Parquet.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE]
        [--gallery FILE.html] [--top K]

Files are prepared as the run's test samples; the run's own data is not needed.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.config.compose import change
from src.kindling.config.errors import InputError
from src.kindling.deploy.predict import Predicted, predict
from src.kindling.deploy.prediction_writers import PREVIEW
from src.kindling.runs.files import shown


def main(argv: list[str]) -> Predicted:
    flags = build_parser().read(argv)
    from src.kindling.training.trained_run import load_run

    run = load_run(flags.run)
    changes = [
        word
        for word in flags.words
        if word.startswith("data.") and "=" in word and not os.path.exists(word)
    ]
    run.config = change(run.config, changes)
    if not (inputs := [word for word in flags.words if word not in changes]):
        raise InputError("no INPUT: name files, folders or globs, or - for standard input")

    from src.kindling.config import instantiate

    instantiate.check(run.config, trained=True)
    started = time.perf_counter()
    found = predict(run, inputs, flags.out, flags.gallery, flags.batch_size, flags.top)
    seconds = time.perf_counter() - started
    print_found(found, seconds, flags)
    if found.unreadable:
        print(f"unreadable {found.unreadable:,}; the column 'error' says why")
        raise SystemExit(3)
    return found


def build_parser() -> Parser:
    parser = Parser(
        "predict",
        "RUN INPUT ... [data.key=value ...] [--out FILE] [--gallery FILE.html] [--batch-size N] "
        "[--top K]",
        "Predict from files with a run's best checkpoint.",
    )
    inputs = (
        "files, folders or globs of images or tables, or - for standard input; and data.key=value, "
        "to read them otherwise than in training"
    )
    file_help = ".csv, .jsonl or .parquet; else <run>/predictions.csv"
    gallery_help = "an HTML page with the first images"
    top_help = "give the K most probable classes, not the probability of each"
    add = parser.add_argument
    add("run", metavar="RUN", help="a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'")
    add("words", nargs="+", metavar="INPUT", help=inputs)
    add("--out", type=Path, metavar="FILE", help=file_help)
    add("--gallery", type=Path, metavar="FILE.html", help=gallery_help)
    add("--batch-size", type=int, metavar="N", help="samples that the net takes at once")
    add("--top", type=int, metavar="K", help=top_help)
    return parser


def print_found(found: Predicted, seconds: float, flags: Namespace) -> None:
    """Print the first predictions, the speed, the notes and the files."""
    names = [name for name in found.first if flags.top or not name.startswith("probability_")]
    preview = found.first.head(PREVIEW)[names].astype(object).fillna("")
    print(preview.to_string(index=False, float_format="{:.4g}".format))
    speed = f"{found.rows / seconds:,.0f} a second"
    print(f"\npredicted  {found.rows:,} rows in {seconds:.1f} s ({speed})")
    for note in found.notes:
        print(f"note       {note}")
    print(f"saved      {shown(found.path)}")
    if flags.gallery:
        print(f"gallery    {shown(flags.gallery)}")


if __name__ == "__main__":
    run_command(main)
