"""Test whether two runs differ, from their predictions of the same test samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from src.kindling.analysis.intervals import deviations_of_mean
from src.kindling.analysis.leaderboard import Row
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs.metric_names import mode_by_name

if TYPE_CHECKING:
    from src.kindling.analysis.prediction_columns import Predictions

METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}


@dataclass(frozen=True)
class Difference:
    """The gain of B over A, with the 95 % confidence interval.

    Attributes:
        gain, low, high: in the metric; in points, hundredths, where scores are right or wrong.
        p: of `test`, which names what was counted: groups, seeds.
        samples: how many test samples were compared.
    """

    gain: float
    low: float
    high: float
    metric: str
    p: float
    test: str
    samples: int = 0
    points: bool = False
    names: tuple[str, str] = ("A", "B")

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, and the test agrees."""
        return (self.low > 0 or self.high < 0) and self.p < 0.05

    def __str__(self) -> str:
        leader, sign = (self.names[0], -1) if self.gain < 0 else (self.names[1], 1)
        low, high = sorted((sign * self.low + 0.0, sign * self.high + 0.0))
        digits, unit = (".1f", "points of") if self.points else (".4g", "in")
        interval = f"95 % confidence interval {low:{digits}} to {high:{digits}}"
        test = f"{self.test}: p = {self.p:.2g}"
        by = f"by {abs(self.gain):{digits}} {unit} {self.metric} ({interval}; {test})"
        if self.significant:
            return f"{leader} is significantly better {by}"
        lead = f"{leader} leads" if self.gain else "they differ"
        return f"no significant difference between {' and '.join(self.names)}: {lead} {by}"


def compare_paired(one: Row, other: Row) -> Difference:
    """Compare two runs, A and B, sample by sample; samples of one group count as one observation.

    The t-interval of the mean difference, and its t-test; for independent samples that are right or
    wrong, McNemar's exact test. Both compare these two trainings; other seeds may reverse the
    result.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    import numpy as np
    from scipy.stats import binomtest

    a, b = read_scores([one, other])
    n, lower_is_better = len(a), mode_by_name(a.scored) == "min"
    is_right_or_wrong = not lower_is_better and np.isin([a["score"], b["score"]], (0, 1)).all()
    gains = b["score"].astype(float) - a["score"]
    gains *= -1 if lower_is_better else 100 if is_right_or_wrong else 1
    gain, groups = float(gains.mean()), b.columns.get("group", a.columns.get("group"))
    variance = variance_of_mean(gains, groups)
    if variance is None:
        count = n if groups is None else len(np.unique(groups))
        sizes = f"{n:,} in {format_count(count, 'sample' if groups is None else 'group')}"
        names = f"{one.name} and {other.name}"
        raise InputError(f"{names}: too few test samples ({sizes}), or a score is not finite")
    low, high, p = t_test(gain, [variance])
    test = "t-test" if groups is None else f"t-test over {variance.freedom + 1:,.0f} groups"
    if is_right_or_wrong and groups is None:
        won, lost = int((gains > 0).sum()), int((gains < 0).sum())
        test, p = "McNemar", float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Difference(gain, low, high, name_score(a.scored), p, test, n, bool(is_right_or_wrong))


class Variance(NamedTuple):
    """The estimated variance of a mean, and its degrees of freedom."""

    value: float
    freedom: float


def variance_of_mean(values: Any, groups: Any = None) -> Variance | None:
    """Estimate the variance of a mean, from the sums of groups if there are some.

    None for fewer than two values or groups, or values that are not finite.
    """
    import numpy as np

    deviations = deviations_of_mean(values, groups)
    if deviations is None:
        return None
    G = len(deviations)
    return Variance(G / (G - 1) * float(np.square(deviations).sum()), G - 1)


def add_variances(parts: Sequence[Variance]) -> Variance:
    """Add the variances of two means that differ, with Welch's degrees of freedom.

    Source: Welch, "The generalization of Student's problem when several different population
    variances are involved", Biometrika 34 (1947).
    """
    value = sum(part.value for part in parts)
    freedoms = sum(part.value**2 / part.freedom for part in parts)
    return Variance(value, value**2 / freedoms if value else parts[0].freedom)


def t_test(gain: float, variances: Sequence[Variance]) -> tuple[float, float, float]:
    """The 95 % t-interval of a gain, and the p value of no gain.

    For a sum of several variances, each with its own t quantile: the interval covers at least 95 %,
    also for few seeds, where Welch's covers less.

    Source: Banerjee, "Approximate confidence interval for linear functions of means of k
    populations when the population variances are not equal", Sankhya 22 (1960).
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    def margin(log_p: float) -> float:
        quantiles = [float(t.isf(10**log_p / 2, part.freedom)) for part in variances]
        squares = [q**2 * part.value for q, part in zip(quantiles, variances, strict=True)]
        return math.sqrt(sum(squares))

    smallest, half = -15.0, margin(math.log10(0.05))
    if not gain or margin(smallest) <= abs(gain):
        return gain - half, gain + half, float(not gain)
    p = 10 ** float(brentq(lambda log_p: margin(log_p) - abs(gain), smallest, 0))
    return gain - half, gain + half, p


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
        "not covered: other seeds, which may reverse it; train both with --seeds 0,1,2, and "
        "compare with --seeds A B",
    ]


def read_scores(runs: Sequence[Row]) -> list[Predictions]:
    """Read the test predictions of runs by sample number, each with a column `score`.

    Raises:
        InputError: when they are missing, or are not of the same samples.
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
    found = Predictions.load(path, only=("target", "score", "group"))
    if "score" not in found.columns:  # a run of an earlier version
        found = Predictions.load(path)
        found.scored = "accuracy" if "probability" in found.columns else "mae"
        error = np.abs(found["prediction"] - found["target"])
        scores = error == 0 if found.scored == "accuracy" else error
        found.columns["score"] = scores.mean(axis=tuple(range(1, scores.ndim)))
    return found.take(np.argsort(found["index"]))
