"""Train a search's best config and the default one again, with new seeds, and compare them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from src.kindling.analysis.seed_significance import compare_seeds
from src.kindling.studies.plan import Plan
from src.kindling.studies.study import begin_study, finish_study, run_study

NAMES = ("default", "best")


def confirm_best(
    plan: Plan, best: dict[str, Any], count: int, workers: int = 1, retry: bool = False
) -> None:
    """Compare by validation over `count` seeds that the search did not use; print the result.

    The runs are a study in the search's folder, which the same command continues.

    Args:
        best: name, value and changes of the search's best trial.
    """
    seed = plan.configure({}).values.get("seed") or 0
    changes = dict(zip(NAMES, ({}, best["changes"]), strict=True))
    members = {
        f"{name}_seed{number}": {**changes[name], "seed": number}
        for number in range(seed + 1, seed + 1 + count)
        for name in NAMES
    }
    retest = replace(
        plan,
        part=f"confirm-{best['name']}",
        members=members,
        about={"best": best["changes"]},
        suggest=None,
        sampler=None,
        pruner=None,
    )
    print()
    results = run_study(retest, begin_study(retest), workers, retry)
    scores: dict[str, dict[int, float]] = {name: {} for name in NAMES}
    for result in results:
        if result.state == "finished" and result.value is not None:
            scores[result.name.partition("_")[0]][result.changes["seed"]] = result.value
    common = sorted(scores["default"].keys() & scores["best"].keys())
    lines = ["not compared: fewer than 2 seeds with both runs finished"]
    if len(common) > 1:
        default, tuned = ({seed: scores[name][seed] for seed in common} for name in NAMES)
        missing = "other samples than those of validation, which chose the best"
        found = compare_seeds(default, tuned, plan.monitor, plan.mode, NAMES, missing=missing)
        lines = found.format([f"{name}, {len(common)} new seeds" for name in NAMES])
    print("", *lines, "", sep="\n")
    finish_study(retest, results, {}, lines)
