"""Train a search's best config and the default one again, with new seeds, and compare them."""

from __future__ import annotations

import glob
from dataclasses import replace
from typing import Any

from src.kindling.analysis.seed_significance import format_seed_comparison
from src.kindling.config.errors import InputError
from src.kindling.studies.plan import Plan
from src.kindling.studies.study import begin_study, finish_study, run_study


def confirm_best(
    plan: Plan, best: dict[str, Any], count: int, workers: int = 1, retry: bool = False
) -> None:
    """Compare in validation with `count` seeds that the search did not use; print the result.

    The runs are a study in the search's folder, which the same command continues.

    Args:
        best: name and changes of the search's best trial.
    """
    seed = plan.configure({}).values.get("seed") or 0
    members = {
        f"{name}_seed{number}": {**changes, "seed": number}
        for number in range(seed + 1, seed + 1 + count)
        for name, changes in (("default", {}), ("best", best["changes"]))
    }
    about, part = {"best": best["changes"]}, f"confirm-{best['name']}"
    plan = replace(plan, members=members, about=about, part=part)
    plan = replace(plan, suggest=None, sampler=None, pruner=None)
    print()
    results = run_study(plan, begin_study(plan), workers, retry)
    folder = glob.escape(str(plan.folder))
    try:
        words = [f"{folder}/{name}_seed*" for name in ("default", "best")]
        lines = format_seed_comparison(words, plan.monitor)
    except InputError as error:  # runs that failed, or are on other machines
        lines = [f"not compared: {line}" for line in error.lines]
    print("", *lines, "", sep="\n")
    finish_study(plan, results, {}, lines)
