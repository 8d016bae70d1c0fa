"""Predict from images or tables with a run's checkpoint, into CSV, JSON lines or Parquet.

    python -m src.predict RUN INPUT ... [data.key=value ...] [--out FILE]
        [--gallery FILE.html] [--top K] [--trust]

Files are prepared like the run's test samples; the run's own data is not needed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from src.kindling.config.command import EXACT, Parser, run_command
from src.kindling.config.errors import escape_control, format_count
from src.kindling.runs.files import display_path

INPUT = "files, folders or globs of images or tables, or - for standard input; data.key=value"
OUT = ".csv, .jsonl or .parquet; default <run>/predictions.csv"
TOP = "write the K most probable classes, not the probability of each"


def main(argv: list[str]) -> Any:
    parser = Parser("predict", __doc__)
    add = parser.add_argument
    parser.add_run()
    add("words", nargs="+", metavar="INPUT", help=INPUT)
    add("--out", type=Path, metavar="FILE", help=OUT)
    add("--gallery", type=Path, metavar="FILE.html", help="an HTML page with the first images")
    add("--batch-size", type=int, metavar="N", help="samples per batch")
    add("--top", type=int, metavar="K", help=TOP)
    add("--exact", action="store_true", help=EXACT)
    flags = parser.read(argv)
    from src.kindling.deploy.predict import predict, split_inputs
    from src.kindling.training.trained_run import load_run, one_line

    run = load_run(flags.run, flags.trust)
    options = (flags.out, flags.gallery, flags.batch_size, flags.top, flags.exact)
    started = time.perf_counter()
    with one_line(run):
        found = predict(run, split_inputs(run, flags.words), *options)
    seconds = time.perf_counter() - started
    print(found.format_preview(probabilities=bool(flags.top)))
    rows, speed = format_count(found.rows, "row"), found.rows / seconds
    print(f"\npredicted  {rows} in {seconds:.1f} s ({speed:,.0f} rows/s)")
    for note in found.notes:
        print(f"note       {escape_control(note)}")
    print(f"saved      {display_path(found.out)}")
    if flags.gallery:
        print(f"gallery    {display_path(flags.gallery)}")
    if found.unreadable:
        print(f"unreadable {found.unreadable:,}; see the column 'error'")
        raise SystemExit(3)
    return found


if __name__ == "__main__":
    run_command(main)
