"""How fast an experiment trains, how close that is to the limit, and what to change.

python -m src.benchmark [CONFIG] [key=value ...] [--against raw] [--json FILE]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError
from src.kindling.dev.benchmark import benchmark
from src.kindling.dev.benchmark_report import table


def main(argv: list[str]) -> dict[str, Any]:
    parser = Parser("benchmark", "[CONFIG] [key=value ...] [--against raw] [--json FILE]",
                    "Measure how fast an experiment trains.", with_configs=True)  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help="a config's name, and values to change")
    parser.add_argument("--against", choices=("raw",), help="measure the textbook loop as well")
    parser.add_argument("--rounds", type=int, default=5, help="how often each part is measured (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each measurement takes (2)")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    flags = parser.read(argv)
    if flags.rounds < 1 or flags.seconds <= 0:
        raise InputError(f"--rounds and --seconds have to be above 0, got {flags.rounds} and {flags.seconds:g}")
    config = compose(*split_words(flags.words))

    from src.kindling.config import instantiate
    from src.kindling.runs.files import write

    instantiate.check(config)
    report = benchmark(config, flags.rounds, flags.seconds, raw=flags.against == "raw")
    table(report)
    if flags.json:
        write(Path(flags.json), json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    run_command(main)
