"""Cross-validate a config: a training that did not see a sample predicts it.

    python -m src.crossval [CONFIG] [key=value ...] [--folds 5] [--repeats 1] [--workers 2]
                           [--storage URL] [--name NAME] [--retry]

The test set stays unseen. A fold is an ordinary run with `data.fold=[0,5,0]`.
"""

from __future__ import annotations

from src.kindling.config.command import Parser, run_command, split_words
from src.kindling.studies.flags import add_flags
from src.kindling.studies.folds import plan_folds, report_folds
from src.kindling.studies.plan import TrialResult
from src.kindling.studies.study import begin_study, finish_study, run_study

USAGE = (
    "[CONFIG] [key=value ...] [--folds 5] [--repeats 1] [--workers 2] [--storage URL] "
    "[--name NAME] [--retry]"
)


def main(argv: list[str]) -> list[TrialResult]:
    parser = Parser("crossval", USAGE, "Cross-validate a config.", with_configs=True)
    words = "a config's name, and values to change"
    parser.add_argument("words", nargs="*", metavar="CONFIG, key=value", help=words)
    parser.add_argument("--folds", type=int, default=5, help="number of folds (5)")
    repeats = "number of repetitions, each with other folds (1)"
    parser.add_argument("--repeats", type=int, default=1, help=repeats)
    add_flags(parser)
    flags = parser.read(argv)
    plan = plan_folds(*split_words(flags.words), flags)
    results = run_study(plan, begin_study(plan), flags.workers, flags.retry)
    finish_study(plan, results, *report_folds(plan, results))
    return results


if __name__ == "__main__":
    run_command(main)
