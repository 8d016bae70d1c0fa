"""Measure a run again: its checkpoint, on the validation or the test split of its data.

python -m src.evaluate RUN [--split val|test] [--trust]
"""

from __future__ import annotations

import math

from src.kindling.config.command import Parser, run_command
from src.kindling.runs.files import display_path


def main(argv: list[str]) -> dict[str, float]:
    parser = Parser("evaluate", __doc__)
    parser.add_run()
    parser.add_argument(
        "--split", choices=("val", "test"), help="the split to measure (default: both)"
    )
    flags = parser.read(argv)
    from src.kindling.training.trained_run import load_run, one_line

    run = load_run(flags.run, flags.trust)

    from src.kindling.config import instantiate
    from src.kindling.training.evaluate import evaluate
    from src.kindling.training.launch import print_metrics

    with one_line(run):
        instantiate.check(run.config, trained=True)
        metrics = evaluate(run, (flags.split,) if flags.split else ("val", "test"))
    print_metrics(metrics)
    trained = {name: value for name, value in run.metrics.items() if name in metrics}
    now = {name: None if math.isnan(value) else value for name, value in metrics.items()}  # as JSON
    differing = [name for name, value in trained.items() if value != now[name]]
    print(f"\nrun        {display_path(run.path)} ({run.checkpoint_file.name})")
    for name in differing:
        print(f"differs    {name}: {metrics[name]!r} now, {trained[name]!r} at the end of training")
    if trained and not differing:
        print("identical  to the metrics at the end of training, to the last digit")
    print(f"saved      {display_path(run.path / 'evaluation.json')}")
    return metrics


if __name__ == "__main__":
    run_command(main)
