"""Whether two runs really differ, from what they predict of the same test samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from src.kindling.analysis.leaderboard import LESS, Row
from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown


@dataclass(frozen=True)
class Difference:
    """By how much run B is better than run A, in what the task scores each sample by; in points where it is right or wrong.

    With the interval that holds 95 % of that over resampled test samples and, for right or wrong, the p of McNemar's
    test.
    """

    better: float
    low: float
    high: float
    p: float | None
    samples: int
    scored: str = "accuracy"

    @property
    def real(self) -> bool:
        """Whether the interval leaves out 0, and McNemar's test agrees."""
        return (self.low > 0 or self.high < 0) and (self.p is None or self.p < 0.05)

    def __str__(self) -> str:
        ahead, sign = ("A", -1) if self.better < 0 else ("B", 1)
        low, high = sorted((sign * self.low + 0.0, sign * self.high + 0.0))
        name = {"mae": "mean absolute error", "iou": "mean IoU"}.get(self.scored, self.scored.replace("_", " "))
        form, unit, p = ".4g", f"in {name}", ""
        if self.p is not None:
            form, unit, p = ".1f", f"points of {name}", f"; McNemar p = {self.p:.2g}"
        by = f"by {abs(self.better):{form}} {unit} (95 % interval {low:{form}} to {high:{form}}{p})"
        if self.real:
            return f"{ahead} is better {by}: a real difference"
        return f"A and B cannot be told apart: {f'{ahead} is ahead' if self.better else 'they differ'} {by}"


def paired(one: Row, other: Row, resamples: int = 10_000) -> Difference:
    """Compare two runs, A and B, sample by sample: a paired bootstrap, and McNemar's exact test for right or wrong.

    It tells these two trainings apart; other seeds may turn the difference round.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    import numpy as np

    (a, scored), (b, in_other) = _predictions(one), _predictions(other)
    n, p = len(a["index"]), None
    if not n or not np.array_equal(a["index"], b["index"]):
        sizes = f"{n:,} and {len(b['index']):,}, {len(np.intersect1d(a['index'], b['index'])):,} in common"
        raise InputError(f"{one.name} and {other.name}: not tested on the same samples ({sizes})")
    if not np.array_equal(a["target"], b["target"]) or scored != in_other:
        raise InputError(f"{one.name} and {other.name}: the same sample numbers have other targets: the data differ")
    better = (a["score"] - b["score"]) if scored in LESS else b["score"] - a["score"]
    if scored not in LESS and np.isin([a["score"], b["score"]], (0, 1)).all():  # right or wrong
        from scipy.stats import binomtest

        better = 100.0 * better
        gained, lost = int((better > 0).sum()), int((better < 0).sum())
        p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    generator, chunk = np.random.default_rng(0), max(1, 2_000_000 // n)  # resamples at once: some 30 MB
    chunks = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = [better[generator.integers(n, size=(size, n))].mean(axis=1) for size in chunks]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Difference(float(better.mean()), float(low), float(high), p, n, scored)


def _predictions(run: Row) -> tuple[dict[str, Any], str]:
    """Index, target and score from predictions/test.npz, in the order of the sample numbers; and what the score is."""
    import numpy as np

    path = run.paths[0] / "predictions" / "test.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            order = np.argsort(columns["index"])
            found = {name: columns[name][order] for name in ("index", "target")}
            if "score" in columns:
                scored = str(json.loads(str(columns["about.json"]))["scored"])
                return found | {"score": columns["score"][order].astype(float)}, scored
            # Of a run from before tasks scored their samples.
            predicted, classes = columns["prediction"][order], "probability" in columns
            off = predicted != found["target"] if classes else np.abs(predicted - found["target"])
            score = off.mean(axis=tuple(range(1, off.ndim)))
            return found | {"score": 1.0 - score if classes else score}, "accuracy" if classes else "mae"
    except FileNotFoundError:
        raise InputError(f"{run.name}: holds no predictions/test.npz") from None
    except Exception as error:  # what a damaged archive raises is nowhere promised
        raise InputError(f"{shown(path)}: not readable: {error}; remove it") from None
