"""Cross-validate a config: a training that did not see a sample predicts it.

    python -m src.crossval [CONFIG] [key=value ...] [--flags]

The test set stays unseen. A fold is an ordinary run with `data.fold=[0,5,0]`, which measures it as
test/…, at the best epoch of a validation split of the other folds.
"""

from __future__ import annotations

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.studies.flags import add_flags
from src.kindling.studies.folds import plan_folds, report_folds
from src.kindling.studies.plan import TrialResult
from src.kindling.studies.study import finish_study, run_study


def main(argv: list[str]) -> list[TrialResult]:
    parser = Parser("crossval", __doc__, with_configs=True)
    words, repeats = "a config's name, and values to change", "repetitions, each with other folds"
    add = parser.add_argument
    add("words", nargs="*", metavar="CONFIG, key=value", help=words)
    add("--folds", type=int, default=5, help="number of folds (5)")
    add("--repeats", type=int, default=1, help=f"number of {repeats} (1)")
    add_flags(parser)
    flags = parser.read(argv)
    plan = plan_folds(*split_words(flags.words), flags)
    results = run_study(plan, flags.workers, flags.retry)
    finish_study(plan, results, *report_folds(plan, results))
    return results


if __name__ == "__main__":
    run_command(main)
