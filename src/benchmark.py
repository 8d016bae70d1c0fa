"""Measure how fast an experiment trains, relative to its model alone, and advise what to change.

python -m src.benchmark [CONFIG] [key=value ...] [--against raw] [--json FILE]
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError


def main(argv: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    parser = Parser("benchmark", __doc__, with_configs=True)
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG, key=value", help="an experiment and values to change"
    )
    parser.add_argument("--against", choices=("raw",), help="measure the textbook loop too")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit in seconds (60)")
    parser.add_argument("--json", metavar="FILE", help="write the report to this file too")
    flags = parser.read(argv)
    if flags.rounds < 1 or flags.seconds <= 0:
        raise InputError(
            f"--rounds {flags.rounds} --seconds {flags.seconds:g}: expected numbers above 0"
        )
    config = compose(*split_words(flags.words))

    from src.kindling.config import instantiate
    from src.kindling.dev.benchmark import benchmark
    from src.kindling.dev.benchmark_report import print_report
    from src.kindling.runs.files import write

    instantiate.check(config)
    if flags.json and not Path(flags.json).expanduser().absolute().parent.is_dir():
        raise InputError(f"--json {flags.json}: its folder does not exist; make it first")
    seconds = flags.seconds - (time.perf_counter() - started)
    line = f"measuring for about {flags.seconds:g} s"
    report = benchmark(config, flags.rounds, seconds, flags.against == "raw", line)
    print_report(report)
    if flags.json:
        write(Path(flags.json).expanduser(), json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    run_command(main)
