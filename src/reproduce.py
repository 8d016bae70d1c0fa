"""Train a run again from its config, seed and split, and say whether its numbers come out the same, to the last digit.

python -m src.reproduce RUN
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from src.kindling.config.command import Parser, run_command
from src.kindling.runs.files import shown

if TYPE_CHECKING:
    from src.kindling.training.fit import Result
from src.kindling.dev.reproduce import UNKNOWN, _table, reproduce


def main(argv: list[str]) -> Result:
    parser = Parser("reproduce", "RUN", "Train a run again and compare the final numbers, to the last digit.")
    parser.add_argument("run", metavar="RUN", help="a folder in logs/, 'latest' or '<config>/latest'")
    flags = parser.read(argv)

    from src.kindling.training.trained_run import load_run

    run = load_run(flags.run)
    result, found = reproduce(run)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        return result  # the first process tells
    files = [(path / "metrics.json").read_bytes() for path in (run.path, result.run.path)]
    print(f"\nrun        {shown(result.run.path)} ({result.seconds:.1f} s)")
    if files[0] == files[1]:
        print(f"identical  metrics.json is that of {shown(run.path)}, byte for byte")
        return result
    _table(run.metrics, result.run.metrics)
    print(f"not the same as {shown(run.path)}; probable reasons:")
    print("\n".join(f"- {line}" for line in found or [UNKNOWN]))
    raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
