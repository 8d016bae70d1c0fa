"""Test whether two runs differ, from their predictions of the same test samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.leaderboard import Row
from src.kindling.config.errors import InputError
from src.kindling.runs.metric_names import mode_by_name

if TYPE_CHECKING:
    from src.kindling.analysis.prediction_columns import Predictions

METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}


@dataclass(frozen=True)
class Difference:
    """The gain of run B over run A, with the 95 % confidence interval over test samples.

    Attributes:
        gain, low, high: in the task's score of a sample; in points where it is right or wrong.
        p: of McNemar's test, where the score is right or wrong.
    """

    gain: float
    low: float
    high: float
    p: float | None
    samples: int
    scored: str = "accuracy"

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, and McNemar's test agrees."""
        return (self.low > 0 or self.high < 0) and (self.p is None or self.p < 0.05)

    def __str__(self) -> str:
        leader, sign = ("A", -1) if self.gain < 0 else ("B", 1)
        low, high = sorted((sign * self.low + 0.0, sign * self.high + 0.0))
        name = METRIC_NAMES.get(self.scored, self.scored.replace("_", " "))
        digits, unit, p = ".4g", f"in {name}", ""
        if self.p is not None:
            digits, unit, p = ".1f", f"points of {name}", f"; McNemar p = {self.p:.2g}"
        interval = f"95 % confidence interval {low:{digits}} to {high:{digits}}{p}"
        by = f"by {abs(self.gain):{digits}} {unit} ({interval})"
        if self.significant:
            return f"{leader} is significantly better {by}"
        lead = f"{leader} leads" if self.gain else "they differ"
        return f"no significant difference between A and B: {lead} {by}"


def compare_paired(one: Row, other: Row) -> Difference:
    """Compare two runs, A and B, sample by sample.

    The t-interval of the mean difference, and McNemar's exact test where scores are right or wrong.
    Both compare these two trainings; other seeds may reverse the result.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    import numpy as np
    from scipy.stats import binomtest

    a, b = _read_scores(one), _read_scores(other)
    pair, n, p = f"{one.name} and {other.name}", len(a), None
    if not n or not np.array_equal(a["index"], b["index"]):
        common = len(np.intersect1d(a["index"], b["index"]))
        sizes = f"{n:,} and {len(b):,}, {common:,} in common"
        raise InputError(f"{pair}: not tested on the same samples ({sizes})")
    if not np.array_equal(a["target"], b["target"]) or a.scored != b.scored:
        raise InputError(f"{pair}: different targets for the same sample numbers: the data differ")
    gains = b["score"].astype(float) - a["score"]
    if mode_by_name(a.scored) == "min":
        gains = -gains
    elif np.isin([a["score"], b["score"]], (0, 1)).all():
        gains = 100.0 * gains
        won, lost = int((gains > 0).sum()), int((gains < 0).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    low, high = mean_interval(gains) or (np.nan, np.nan)
    return Difference(float(gains.mean()), low, high, p, n, a.scored)


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
