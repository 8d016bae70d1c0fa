"""Train a config once with each seed, and report mean and standard deviation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError
from src.kindling.studies.plan import Plan, TrialResult, member_overrides
from src.kindling.studies.study import (
    begin_study,
    finish_study,
    print_summary,
    run_study,
    summarize,
)


def run_seeds(
    given: str, name: str, overrides: Sequence[str], flags: argparse.Namespace
) -> list[TrialResult]:
    """Train and test a config once with each seed `0,1,2`; raise InputError for a mistake."""
    from src.kindling.config import instantiate

    numbers = [int(number) if number.strip().isdigit() else -1 for number in given.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {given}: expected different whole numbers, such as 0,1,2")
    config = compose(name, overrides)
    if "seed" in config.origins:
        seed, origin = config.values["seed"], config.origin("seed")
        raise InputError(f"seed={seed}: --seeds sets it; leave it out ({origin})")
    instantiate.check(config)
    plan = Plan(
        config.name,
        member_overrides(config, overrides, flags.workers),
        flags.name or "seeds",
        {f"seed{seed}": {"seed": seed} for seed in numbers},
        stages=("val", "test"),
        storage=flags.storage,
        pictures=flags.pictures,
    ).with_monitor({})
    results = run_study(plan, begin_study(plan), flags.workers, flags.retry)
    summary = summarize(results)
    finished = sum(result.state == "finished" for result in results)
    if finished == 1:
        print("one seed finished: no mean ± std; its metrics are in its run's metrics.json")
    lines = print_summary(summary, f"mean ± std of {finished} seeds")
    finish_study(plan, results, {"summary": summary}, lines)
    return results
