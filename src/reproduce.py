"""Train a run again from its config, seed and split, and compare the metrics to the last digit.

python -m src.reproduce RUN [--trust]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from src.kindling.config.command import Parser, run_command
from src.kindling.config.errors import escape_control
from src.kindling.runs.files import display_path

if TYPE_CHECKING:
    from src.kindling.training.fit import Result

UNKNOWN = (
    "no known reason; a GPU adds in another order each time (set trainer.deterministic=true), and "
    "other processors, or fewer cores than threads, round the last digits differently"
)


def main(argv: list[str]) -> Result:
    parser = Parser("reproduce", __doc__)
    parser.add_run()
    flags = parser.read(argv)

    from src.kindling.dev.reproduce import reproduce
    from src.kindling.training.trained_run import load_run, one_line

    run = load_run(flags.run, flags.trust)
    with one_line(run):
        result, differing = reproduce(run)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return result  # the first process prints
    files = [(path / "metrics.json").read_bytes() for path in (run.path, result.run.path)]
    print(f"\nrun        {display_path(result.run.path)} ({result.seconds:.1f} s)")
    if files[0] == files[1]:
        print(f"identical  metrics.json equals that of {display_path(run.path)}, byte for byte")
        return result
    _print_metrics(run.metrics, result.run.metrics)
    print(f"not the same as {display_path(run.path)}; probable reasons:")
    print("\n".join(f"- {line}" for line in differing or [UNKNOWN]))
    raise SystemExit(1)


def _print_metrics(then: dict[str, float], now: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "then", "now", box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys([*then, *now]):
        table.add_row(escape_control(name), repr(then.get(name)), repr(now.get(name)))
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    run_command(main)
