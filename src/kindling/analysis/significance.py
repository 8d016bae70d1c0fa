"""Test whether two runs differ, from their predictions of the same test samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.leaderboard import Row
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs.metric_names import mode_by_name

if TYPE_CHECKING:
    from src.kindling.analysis.prediction_columns import Predictions

METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}


@dataclass(frozen=True)
class Difference:
    """The gain of run B over run A, with the 95 % confidence interval over test samples.

    Attributes:
        gain, low, high: in `unit`: points where scores are right or wrong, else the task's score.
        p: of `test`, which counts the groups if samples come in groups.
    """

    gain: float
    low: float
    high: float
    unit: str
    p: float
    test: str
    samples: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, and the test agrees."""
        return (self.low > 0 or self.high < 0) and self.p < 0.05

    def __str__(self) -> str:
        leader, sign = ("A", -1) if self.gain < 0 else ("B", 1)
        low, high = sorted((sign * self.low + 0.0, sign * self.high + 0.0))
        digits = ".1f" if self.unit.startswith("points") else ".4g"
        interval = f"95 % confidence interval {low:{digits}} to {high:{digits}}"
        test = f"{self.test}: p = {self.p:.2g}"
        by = f"by {abs(self.gain):{digits}} {self.unit} ({interval}; {test})"
        if self.significant:
            return f"{leader} is significantly better {by}"
        lead = f"{leader} leads" if self.gain else "they differ"
        return f"no significant difference between A and B: {lead} {by}"


def compare_paired(one: Row, other: Row) -> Difference:
    """Compare two runs, A and B, sample by sample; samples of one group count as one observation.

    The t-interval of the mean difference, and its t-test; for independent samples that are right or
    wrong, McNemar's exact test. Both compare these two trainings; other seeds may reverse the
    result.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    import numpy as np
    from scipy.stats import binomtest, t

    a, b = _read_scores(one), _read_scores(other)
    pair, n = f"{one.name} and {other.name}", len(a)
    if not n or not np.array_equal(a["index"], b["index"]):
        common = len(np.intersect1d(a["index"], b["index"]))
        sizes = f"{n:,} and {len(b):,}, {common:,} in common"
        raise InputError(f"{pair}: not tested on the same samples ({sizes})")
    if not np.array_equal(a["target"], b["target"]) or a.scored != b.scored:
        raise InputError(f"{pair}: different targets for the same sample numbers: the data differ")
    lower_is_better = mode_by_name(a.scored) == "min"
    is_right_or_wrong = not lower_is_better and np.isin([a["score"], b["score"]], (0, 1)).all()
    gains = b["score"].astype(float) - a["score"]
    gains *= -1 if lower_is_better else 100 if is_right_or_wrong else 1
    groups = b.columns.get("group", a.columns.get("group"))
    count = n if groups is None else len(np.unique(groups))
    test = "t-test" if groups is None else f"t-test over {format_count(count, 'group')}"
    interval = mean_interval(gains, groups)
    if interval is None:
        sizes = f"{n:,} in {format_count(count, 'sample' if groups is None else 'group')}"
        raise InputError(f"{pair}: too few test samples ({sizes}), or a score is not finite")
    gain, (low, high) = float(gains.mean()), interval
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    if is_right_or_wrong and groups is None:
        test, p = "McNemar", float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    elif high > low:
        p = 2 * float(t.sf(2 * abs(gain) / (high - low) * t.ppf(0.975, count - 1), count - 1))
    else:  # all gains are the same
        p = 0.0 if gain else 1.0
    name = METRIC_NAMES.get(a.scored, a.scored.replace("_", " "))
    unit = f"points of {name}" if is_right_or_wrong else f"in {name}"
    return Difference(gain, low, high, unit, p, test, n)


def format_comparison(one: Row, other: Row) -> list[str]:
    """Say in lines whether two runs differ, or why this cannot be tested."""
    try:
        found = compare_paired(one, other)
    except InputError as error:
        return [f"the difference cannot be tested: {line}" for line in error.lines]
    return [f"A = {one.name}, B = {other.name}, {found.samples:,} test samples", str(found)]


def _read_scores(run: Row) -> Predictions:
    """Read predictions/test.npz by sample number, with a column `score`."""
    import numpy as np

    from src.kindling.analysis.prediction_columns import Predictions

    path = run.paths[0] / "predictions" / "test.npz"
    if not path.exists():
        raise InputError(f"{run.name}: predictions/test.npz is missing")
    found = Predictions.load(path)
    if "score" not in found.columns:  # a run of an earlier version
        found.scored = "accuracy" if "probability" in found.columns else "mae"
        error = np.abs(found["prediction"] - found["target"])
        scores = error == 0 if found.scored == "accuracy" else error
        found.columns["score"] = scores.mean(axis=tuple(range(1, scores.ndim)))
    return found.take(np.argsort(found["index"]))
