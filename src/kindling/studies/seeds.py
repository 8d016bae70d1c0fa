"""Train a config with several seeds, or compare a search's best config with the default one."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.kindling.config.compose import compose
from src.kindling.config.errors import InputError
from src.kindling.studies.plan import Plan, TrialResult, make_plan
from src.kindling.studies.study import finish_study, print_summary, run_study, summarize


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
    if len(numbers) == 1:  # not refused: others may be added later
        count = numbers[0] if 1 < numbers[0] <= 10 else 3
        several = ",".join(map(str, range(count)))
        print(f"--seeds {given}: one seed; for {count} seeds pass --seeds {several}")
    members = {f"seed{seed}": {"seed": seed} for seed in numbers}
    plan = make_plan(config, overrides, flags, "seeds", members)
    plan = replace(plan, stages=("val", "test")).with_monitor({})
    results = run_study(plan, flags.workers, flags.retry)
    summary = summarize(results)
    finished = sum(result.state == "finished" for result in results)
    if finished == 1:
        print("one seed finished: no mean ± std; its metrics are in its run's metrics.json")
    lines = print_summary(summary, f"mean ± std of {finished} seeds")
    finish_study(plan, results, {"summary": summary}, lines)
    return results


def confirm_best(plan: Plan, best: dict[str, Any], flags: argparse.Namespace) -> None:
    """Compare a search's best trial and default config with new seeds.

    The runs are a study in the search's folder, which the same command continues.
    """
    from src.kindling.analysis.significance import format_seed_comparison

    seed = plan.configure({}).values.get("seed") or 0
    members = {
        f"{name}_seed{number}": {**changes, "seed": number}
        for number in range(seed + 1, seed + 1 + flags.confirm)
        for name, changes in (("default", {}), ("best", best["changes"]))
    }
    about, part = {"best": best["changes"]}, f"confirm-{best['name']}"
    plan = replace(plan, members=members, about=about, part=part, suggest=None)
    print()
    results = run_study(plan, flags.workers, flags.retry)
    folder = glob.escape(str(plan.folder))
    try:
        words = [f"{folder}/{name}_seed*" for name in ("default", "best")]
        lines = format_seed_comparison(words, plan.monitor)
    except InputError as error:  # runs that failed, or are on other machines
        lines = [f"not compared: {line}" for line in error.lines]
    print("", *lines, "", sep="\n")
    finish_study(plan, results, {}, lines)
