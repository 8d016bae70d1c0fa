"""Search a config's hyperparameters: trials over a search space, compared on the validation split.

    python -m src.tune [CONFIG] [SPACE] [key=value ...] [--flags]

SPACE is a file in configs/space/. Each line is a config key and the values to try: a list of
choices, or `low` and `high` with `log` or `step`. The same command continues a search, or joins it.
"""

from __future__ import annotations

from src.kindling.config import compose as config_module
from src.kindling.config.command import Parser, run_command
from src.kindling.config.errors import InputError
from src.kindling.studies.flags import add_flags
from src.kindling.studies.plan import TrialResult
from src.kindling.studies.search import plan_search, report_search
from src.kindling.studies.seeds import confirm_best
from src.kindling.studies.study import finish_study, run_study

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "hyperband")


def main(argv: list[str]) -> list[TrialResult]:
    parser = Parser("tune", __doc__, with_configs=True)
    spaces = sorted(path.stem for path in (config_module.CONFIGS / "space").glob("*.yaml"))
    words = f"a config, a search space ({', '.join(spaces)}), and values for all trials"
    trials = "number of trials, those of earlier commands included (50, or all of a grid)"
    add = parser.add_argument
    add("words", nargs="*", metavar="CONFIG, SPACE, key=value", help=words)
    add("--trials", type=int, help=trials)
    add("--sampler", choices=SAMPLERS, default="tpe", help="how to draw the trials (tpe)")
    add("--pruner", choices=PRUNERS, default="none", help="which trials to stop early (none)")
    add("--confirm", type=int, metavar="N", help="retest best and default config, N new seeds")
    add_flags(parser)
    flags = parser.read(argv)
    if flags.confirm is not None and flags.confirm < 2:
        raise InputError(f"--confirm {flags.confirm}: expected at least 2 seeds")
    plan = plan_search(flags)
    results = run_study(plan, flags.workers, flags.retry)
    found, lines = report_search(plan, results)
    try:
        finish_study(plan, results, found, lines)
    finally:  # also when trials failed
        if flags.confirm and found["best"]:
            confirm_best(plan, found["best"], flags)
    return results


if __name__ == "__main__":
    run_command(main)
