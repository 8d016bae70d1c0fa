"""Test whether two configs differ, each trained with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from src.kindling.analysis.leaderboard import (
    MEASURED,
    Row,
    find_differing_keys,
    mode_of,
    read_seeds,
)
from src.kindling.analysis.significance import (
    ROUNDING,
    Difference,
    half_width,
    name_score,
    read_scores,
)
from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.runs.files import read_json
from src.kindling.runs.metric_names import canonical_name, parse_name

Scores = dict[Any, float]  # by seed


def compare_seeds(
    a: Scores, b: Scores, metric: str, mode: str | None, margin: float = 0.0
) -> Difference:
    """Compare the mean scores of two configs: paired, where the seeds are the same.

    Margins, such as that over test samples, add up by their squares to an interval that covers at
    least 95 % (Banerjee, Sankhya 22, 1960).
    """
    is_paired = a.keys() == b.keys()
    parts = [[b[seed] - a[seed] for seed in a]] if is_paired else [[*a.values()], [*b.values()]]
    gain = (fmean(b.values()) - fmean(a.values())) * (-1 if mode == "min" else 1)
    margin = math.hypot(margin, *map(half_width, parts))
    seeds = f"over {len(a)} paired seeds" if is_paired else f"over {len(a)} and {len(b)} seeds"
    p = None
    if gain and margin <= ROUNDING * abs(gain):  # only which config leads is known
        p = 2 / (2 ** len(a) if is_paired else math.comb(len(a) + len(b), len(a)))
        test = "sign test" if is_paired else "permutation test"
        seeds += f" with the same difference; {test}: p = {p:.2g}"
    return Difference(gain, margin, f"in {metric}", seeds, p)


def format_seed_comparison(words: Sequence[str], metric: str | None) -> list[str]:
    """Compare two sets of seeds, each a study, a folder or a pattern, and say so in lines.

    By the score of the test samples, and the variance over samples too (Bouthillier et al., MLSys
    2021); if `metric` is given, or the test samples differ, by a final metric.

    Raises InputError when a word is not a set of seeds of one config, or they cannot be compared.
    """
    (one, runs), (other, others) = map(read_seeds, words)
    if differing := {*MEASURED} & {*find_differing_keys([one.config, other.config])}:
        keys = join_names(sorted(differing))
        raise InputError(f"--seeds {' '.join(words)}: not of the same data ({keys} differ)")
    count, runs = len(runs), runs + others
    values: list[Any] = []
    margin, covered = 0.0, "not covered: other samples"
    if metric is None:
        try:
            values, name, margin, covered = _score_samples(runs, count)
        except InputError as error:
            covered += f" ({error.lines[0]})"
    if not values:
        _require_same_split(words, [one, other])
        tested = f"test/{parse_name(one.monitor)[1]}"
        name = canonical_name(metric or (tested if tested in one.numbers else one.monitor))
        values = [run.numbers.get(name) for run in runs]
    if None in values:
        raise InputError(f"--seeds: not all runs have a finite {name}; pass --sort METRIC")
    by_seed = [(run.config["seed"], value) for run, value in zip(runs, values, strict=True)]
    a, b = dict(by_seed[:count]), dict(by_seed[count:])
    found = compare_seeds(a, b, name, mode_of([one], name), margin)
    lines = [
        f"{label} = {row.name}: {name} {fmean(scores.values()):.4f} ± {stdev(scores.values()):.4f}"
        for label, row, scores in (("A", one, a), ("B", other, b))
    ]
    return [*lines, str(found), *_format_wins(a, b, found), covered]


def _score_samples(runs: Sequence[Row], count: int) -> tuple[list[float], str, float, str]:
    """Mean scores and their name; the margin of the gain over the first `count`, and its note."""
    import numpy as np

    predictions = read_scores(runs)
    scores = np.stack([found["score"].astype(float) for found in predictions])
    groups, size = predictions[0].columns.get("group"), f"{len(predictions[0]):,} test samples"
    size += "" if groups is None else f" in {format_count(len(set(groups)), 'group')}"
    margin = half_width(scores[count:].mean(axis=0) - scores[:count].mean(axis=0), groups)
    name = name_score(predictions[0].scored)
    return scores.mean(axis=1).tolist(), name, margin, f"covered: other seeds and samples ({size})"


def _require_same_split(words: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse metrics of other samples: predictions, which name their samples, are not compared."""
    files = [row.paths[0] / "meta.json" for row in rows]
    hashes = {read_json(file).get("split_hash") for file in files if file.exists()} - {None}
    if len(hashes) > 1:
        keys = find_differing_keys([row.config for row in rows])
        causes = [key for key in keys if key.startswith("data.")] or ["the samples"]
        problem = f"not of the same splits ({join_names(causes)} differ)"
        raise InputError(f"--seeds {' '.join(words)}: {problem}; train both on the same splits")


def _format_wins(a: Scores, b: Scores, found: Difference) -> list[str]:
    """How many seeds the leader leads, and Wilson's interval; nothing without pairs or leader."""
    from scipy.stats import binomtest

    if a.keys() != b.keys() or not found.gain:
        return []
    leader, lead = "A" if found.gain < 0 else "B", fmean(b.values()) - fmean(a.values())
    wins = sum((b[seed] - a[seed]) * lead > 0 for seed in a)
    share = binomtest(wins, len(a)).proportion_ci(method="wilson")
    interval = f"95 % confidence interval {100 * share.low:.0f} to {100 * share.high:.0f} %"
    return [f"{leader} leads with {wins} of {len(a)} seeds ({interval})"]
