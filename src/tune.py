"""Search a config's hyper-parameters: many trials over a space, each measured on the validation split.

    python -m src.tune [CONFIG] [SPACE] [key=value ...] [--trials 50] [--workers 2] [--sampler tpe|random|grid]
                       [--pruner none|median|hyperband] [--storage URL] [--name NAME] [--retry]

SPACE is a file in configs/space/. Each line of it is a config key and what to try there: a list of choices, or `low` and
`high` with `log` or `step` (whole numbers between whole numbers); a group such as `net` has the names of its options.
With `when: {net: cnn}` a key is set only where that was chosen above. The same command goes on with a search, or joins it.
"""

from __future__ import annotations

from src.kindling.config import compose as config_module
from src.kindling.config.command import Parser, run_command
from src.kindling.studies.flags import add_flags
from src.kindling.studies.plan import Outcome
from src.kindling.studies.search import plan_search, report
from src.kindling.studies.study import begin, end, run_study


def main(argv: list[str]) -> list[Outcome]:
    parser = Parser("tune", "[CONFIG] [SPACE] [key=value ...] [--trials 50] [--workers 2] [--sampler tpe|random|grid] "
                    "[--pruner none|median|hyperband] [--storage URL] [--name NAME] [--retry]",
                    "Search a config's hyper-parameters.", with_configs=True)  # fmt: skip
    spaces = ", ".join(sorted(path.stem for path in (config_module.CONFIGS / "space").glob("*.yaml")))
    parser.add_argument("words", nargs="*", metavar="CONFIG, SPACE, key=value", help="a config, what to search (there are: "
                        f"{spaces}), and what holds for all trials")  # fmt: skip
    parser.add_argument(
        "--trials", type=int, help="how many, those of earlier commands included (50, or all of a grid)"
    )
    parser.add_argument("--sampler", choices=("tpe", "random", "grid"), default="tpe", help="how to draw (tpe)")
    parser.add_argument("--pruner", choices=("none", "median", "hyperband"), default="none", help="which trials to give up "
                        "early (none)")  # fmt: skip
    add_flags(parser)
    flags = parser.read(argv)
    plan = plan_search(flags)
    study = begin(plan)
    found = run_study(plan, study, flags.workers, flags.retry)
    best = report(plan, study, found)
    end(plan, found, {"best": best}, [f"Best: {best['name']}, {plan.monitor} {best['value']:.6g}, with " + ", ".join(
        f"{key}={value}" for key, value in best["changes"].items())] if best else [])  # fmt: skip
    return found


if __name__ == "__main__":
    run_command(main)
