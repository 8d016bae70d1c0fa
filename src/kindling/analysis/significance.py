"""Test whether two runs differ, from their predictions of the same test samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.leaderboard import Leaderboard, Row
from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.runs.metric_names import mode_by_name

if TYPE_CHECKING:
    from src.kindling.analysis.prediction_columns import Predictions

ROUNDING = 1e-3  # of a gain; gains that vary by less are the same
METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}


@dataclass(frozen=True)
class Difference:
    """The gain of B over A, and half of its 95 % confidence interval."""

    gain: float  # in the metric; in points, where scores are right or wrong
    margin: float
    metric: str
    basis: str  # the test and its p value, or the number of seeds
    p: float | None = None  # None where the interval is the only test
    samples: int = 0

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, and the test agrees."""
        return abs(self.gain) > self.margin and (self.p is None or self.p < 0.05)

    def __str__(self) -> str:
        leader, lead = "A" if self.gain < 0 else "B", abs(self.gain)
        digits = ".1f" if self.metric.startswith("points") else ".4g"
        ends = f"{lead - self.margin:{digits}} to {lead + self.margin:{digits}}"
        by = f"by {lead:{digits}} {self.metric} (95 % confidence interval {ends}; {self.basis})"
        if self.significant:
            return f"{leader} is significantly better {by}"
        how = f"{leader} leads" if lead else "they differ"
        return f"no significant difference between A and B: {how} {by}"


def compare_paired(one: Row, other: Row) -> Difference:
    """Compare two runs, A and B, sample by sample; samples of one group count as one observation.

    By the t-interval and t-test of the mean difference, or a sign test where all are the same; for
    independent samples that are right or wrong, by McNemar's exact test. Raises InputError without
    predictions of the same samples.
    """
    import numpy as np
    from scipy.stats import binomtest, t

    a, b = read_scores([one, other])
    n, lower_is_better = len(a), mode_by_name(a.scored) == "min"
    is_right_or_wrong = not lower_is_better and np.isin([a["score"], b["score"]], (0, 1)).all()
    gains = b["score"].astype(float) - a["score"]
    gains *= -1 if lower_is_better else 100 if is_right_or_wrong else 1
    gain, groups = float(gains.mean()), b.columns.get("group", a.columns.get("group"))
    count = n if groups is None else len(np.unique(groups))
    margin = half_width(gains, groups)
    test = "t-test" if groups is None else f"t-test over {format_count(count, 'group')}"
    if is_right_or_wrong and groups is None:
        won, lost = int((gains > 0).sum()), int((gains < 0).sum())
        test, p = "McNemar", float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    elif margin > ROUNDING * abs(gain):
        p = 2 * float(t.sf(abs(gain) / margin * t.ppf(0.975, count - 1), count - 1))
    else:  # all gains are the same, and show only which run leads
        test, p = test.replace("t-test", "sign test"), 2 * 0.5**count if gain else 1.0
    metric = f"{'points of' if is_right_or_wrong else 'in'} {name_score(a.scored)}"
    return Difference(gain, margin, metric, f"{test}: p = {p:.2g}", p, n)


def half_width(values: Any, groups: Any = None) -> float:
    """Half of the 95 % t-interval of a mean; raise InputError if there is none."""
    interval = mean_interval(values, groups)
    if interval is None:
        problem = "fewer than two independent test samples, groups or seeds, or one without a score"
        raise InputError(f"{problem}; there is no interval")
    return (interval[1] - interval[0]) / 2


def name_score(scored: str) -> str:
    """A score in words: `mean absolute error` for `mae`."""
    return METRIC_NAMES.get(scored, scored.replace("_", " "))


def format_comparison(one: Row, other: Row) -> list[str]:
    """Say in lines whether two runs differ, or why this cannot be tested."""
    try:
        found = compare_paired(one, other)
    except InputError as error:
        return [f"the difference cannot be tested: {line}" for line in error.lines]
    return [
        f"A = {one.name}, B = {other.name}, {found.samples:,} test samples",
        str(found),
        "not covered: other seeds, which may reverse it (train with --seeds 0,1,2, and compare "
        "--seeds A B)",
    ]


def compare_with_best(board: Leaderboard) -> list[str]:
    """Say in a line which single runs differ significantly from the best row, after Holm."""
    best, *others = board.rows
    found: dict[str, Difference] = {}
    for row in others:
        with suppress(InputError):
            if len(best.paths) == len(row.paths) == 1:
                found[row.name] = compare_paired(best, row)
    # A test metric may have chosen any of them as the best, so it makes a test of each pair.
    by_validation = board.columns[1].startswith("val/")
    count = len(found) if by_validation else math.comb(len(found) + 1, 2)
    adjusted = holm([one.p or 0.0 for one in found.values()], count)
    names: dict[str, list[str]] = defaultdict(list)
    for (name, one), p in zip(found.items(), adjusted, strict=True):
        is_significant = one.significant and p < 0.05
        verdict = "significantly better" if one.gain > 0 else "significantly worse"
        names[verdict if is_significant else "not significantly different"].append(name)
    if untested := [row.name for row in others if row.name not in found]:
        names["not tested (of several seeds: pass --seeds A B; else compare A B says why)"] = (
            untested
        )
    verdicts = "; ".join(f"{verdict}: {join_names(some, 20)}" for verdict, some in names.items())
    tests = f"p < 0.05 after Holm's correction for {format_count(count, 'test')}"
    tests = f" ({tests})" if found else ""
    return [f"against {best.name} on the test split: {verdicts}{tests}"] if others else []


def holm(p_values: Sequence[float], count: int) -> list[float]:
    """Adjust p values of `count` tests for the chance of any false positive.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def read_scores(runs: Sequence[Row]) -> list[Predictions]:
    """Read the test predictions of runs by sample number, each with a column `score`.

    Raises InputError when they are missing, or are not of the same samples.
    """
    import numpy as np

    a, *others = found = [_read_predictions(run) for run in runs]
    for b, run in zip(others, runs[1:], strict=True):
        pair = f"{runs[0].name} and {run.name}"
        if not len(a) or not np.array_equal(a["index"], b["index"]):
            common = len(np.intersect1d(a["index"], b["index"]))
            sizes = f"{len(a):,} and {len(b):,}, {common:,} in common"
            raise InputError(f"{pair}: not tested on the same samples ({sizes})")
        if not np.array_equal(a["target"], b["target"]) or a.scored != b.scored:
            problem = "different targets for the same sample numbers: the data differ"
            raise InputError(f"{pair}: {problem}")
    return found


def _read_predictions(run: Row) -> Predictions:
    import numpy as np

    from src.kindling.analysis.prediction_columns import Predictions

    path = run.paths[0] / "predictions" / "test.npz"
    if not path.exists():
        raise InputError(f"{run.name}: predictions/test.npz is missing")
    found = Predictions.load(path)
    try:
        if "score" not in found.columns:  # a run of an earlier version
            found.scored = "accuracy" if "probability" in found.columns else "mae"
            error = np.abs(found["prediction"] - found["target"])
            scores = error == 0 if found.scored == "accuracy" else error
            found.columns["score"] = scores.mean(axis=tuple(range(1, scores.ndim)))
        is_flat = found["score"].ndim == found.columns.get("group", found["index"]).ndim == 1
    except (KeyError, TypeError, ValueError):
        is_flat = False
    if not is_flat or "target" not in found.columns:
        raise InputError(f"{run.name}: predictions/test.npz has no score for each sample")
    return found.take(np.argsort(found["index"]))
