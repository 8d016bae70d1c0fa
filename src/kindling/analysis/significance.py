"""Test whether two runs differ, from their predictions of the same test samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from src.kindling.analysis.leaderboard import LOWER_IS_BETTER, Row
from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown

METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}


@dataclass(frozen=True)
class Difference:
    """The gain of run B over run A, with the 95 % confidence interval over resampled test samples.

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


def compare_paired(one: Row, other: Row, resamples: int = 10_000) -> Difference:
    """Compare two runs, A and B, sample by sample.

    A paired bootstrap, and McNemar's exact test where scores are right or wrong. Both compare
    these two trainings; other seeds may reverse the result.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    import numpy as np

    (a, scored), (b, scored_other) = _read_scores(one), _read_scores(other)
    pair, n, p = f"{one.name} and {other.name}", len(a["index"]), None
    if not n or not np.array_equal(a["index"], b["index"]):
        common = len(np.intersect1d(a["index"], b["index"]))
        sizes = f"{n:,} and {len(b['index']):,}, {common:,} in common"
        raise InputError(f"{pair}: not tested on the same samples ({sizes})")
    if not np.array_equal(a["target"], b["target"]) or scored != scored_other:
        raise InputError(f"{pair}: different targets for the same sample numbers: the data differ")
    gains = b["score"] - a["score"]
    if scored in LOWER_IS_BETTER:
        gains = -gains
    elif np.isin([a["score"], b["score"]], (0, 1)).all():
        from scipy.stats import binomtest

        gains = 100.0 * gains
        won, lost = int((gains > 0).sum()), int((gains < 0).sum())
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    generator, chunk = np.random.default_rng(0), max(1, 2_000_000 // n)  # 30 MB at a time
    chunks = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = [gains[generator.integers(n, size=(size, n))].mean(axis=1) for size in chunks]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Difference(float(gains.mean()), float(low), float(high), p, n, scored)


def format_comparison(one: Row, other: Row) -> list[str]:
    """Say in lines whether two runs differ, or why this cannot be tested."""
    try:
        found = compare_paired(one, other)
    except InputError as error:
        return [f"the difference cannot be tested: {line}" for line in error.lines]
    return [f"A = {one.name}, B = {other.name}, {found.samples:,} test samples", str(found)]


def _read_scores(run: Row) -> tuple[dict[str, Any], str]:
    """Read index, target and score of predictions/test.npz by sample number; name the score."""
    import numpy as np

    path = run.paths[0] / "predictions" / "test.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            order = np.argsort(columns["index"])
            found = {name: columns[name][order] for name in ("index", "target")}
            if "score" in columns:
                scored = str(json.loads(str(columns["about.json"]))["scored"])
                return found | {"score": columns["score"][order].astype(float)}, scored
            # A run of an earlier version has no scores.
            predicted = columns["prediction"][order]
            if "probability" in columns:
                right = predicted == found["target"]
                return found | {"score": _mean_per_sample(right)}, "accuracy"
            return found | {"score": _mean_per_sample(np.abs(predicted - found["target"]))}, "mae"
    except FileNotFoundError:
        raise InputError(f"{run.name}: predictions/test.npz is missing") from None
    except Exception as error:  # numpy documents no list of errors for damaged archives
        raise InputError(f"{shown(path)}: not readable: {error}; remove it") from None


def _mean_per_sample(values: Any) -> Any:
    return values.mean(axis=tuple(range(1, values.ndim)))
