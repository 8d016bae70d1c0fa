"""One page about a run: its result, plots, data and config, and how to run it again.

    python -m src.report RUN [--trust]

The page is a single file without scripts, `report.html` in the run's directory; training
writes it by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from src.kindling.config.command import Parser, run_command
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> Path:
    parser = Parser("report", __doc__)
    parser.add_run()
    flags = parser.read(argv)

    from src.kindling.analysis.report import report
    from src.kindling.training.trained_run import load_run, one_line

    run = load_run(flags.run, flags.trust)
    with one_line(run):
        path = report(run)
    print(f"report     {display_path(path)} ({os.path.getsize(path) / 2**20:.1f} MiB)")
    return path


if __name__ == "__main__":
    run_command(main)
