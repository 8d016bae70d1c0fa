"""Whether two runs differ, from what they predict of the same test samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from src.errors import InputError
from src.run import shown

if TYPE_CHECKING:
    from src.compare import Row


@dataclass(frozen=True)
class Difference:
    """By how much run B is better than run A, in points of accuracy or in mean absolute error.

    With the interval that holds 95 % of that over resampled test samples and, for classes, the p of McNemar's test.
    """

    better: float
    low: float
    high: float
    p: float | None
    samples: int

    @property
    def real(self) -> bool:
        """Whether the interval leaves out 0, and McNemar's test agrees."""
        return (self.low > 0 or self.high < 0) and (self.p is None or self.p < 0.05)

    def __str__(self) -> str:
        ahead, sign = ("A", -1) if self.better < 0 else ("B", 1)
        low, high = sorted((sign * self.low + 0.0, sign * self.high + 0.0))
        form, unit, p = ".4g", "in mean absolute error", ""
        if self.p is not None:
            form, unit, p = ".1f", "points of accuracy", f"; McNemar p = {self.p:.2g}"
        by = f"by {abs(self.better):{form}} {unit} (95 % interval {low:{form}} to {high:{form}}{p})"
        if self.real:
            return f"{ahead} is better {by}: a real difference"
        return f"A and B cannot be told apart: {f'{ahead} is ahead' if self.better else 'they differ'} {by}"


def paired(one: Row, other: Row, resamples: int = 10_000) -> Difference:
    """Compare two runs, A and B, sample by sample: a paired bootstrap, and McNemar's exact test for classes.

    It tells these two trainings apart; other seeds may turn the difference round.

    Raises:
        InputError: when predictions are missing, or are not of the same samples.
    """
    a, b = _predictions(one), _predictions(other)
    n, p = len(a["index"]), None
    if not n or not np.array_equal(a["index"], b["index"]):
        sizes = f"{n:,} and {len(b['index']):,}, {len(np.intersect1d(a['index'], b['index'])):,} in common"
        raise InputError(f"{one.name} and {other.name}: not tested on the same samples ({sizes})")
    if not np.array_equal(a["target"], b["target"]) or ("probability" in a) != ("probability" in b):
        raise InputError(f"{one.name} and {other.name}: the same sample numbers have other targets: the data differ")
    if "probability" in a:
        from scipy.stats import binomtest

        right = [(run["prediction"] == run["target"]).astype(int) for run in (a, b)]
        better = 100.0 * (right[1] - right[0])
        gained, lost = int((better > 0).sum()), int((better < 0).sum())
        p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    else:
        errors = [np.abs(run["prediction"] - run["target"]).reshape(n, -1).mean(axis=1) for run in (a, b)]
        better = errors[0] - errors[1]
    generator, chunk = np.random.default_rng(0), max(1, 2_000_000 // n)  # resamples at once: some 30 MB
    chunks = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = [better[generator.integers(n, size=(size, n))].mean(axis=1) for size in chunks]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Difference(float(better.mean()), float(low), float(high), p, n)


def _predictions(run: Row) -> dict[str, Any]:
    """The columns of predictions/test.npz, in the order of the sample numbers."""
    path = run.paths[0] / "predictions" / "test.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            order = np.argsort(columns["index"])
            names = {"index", "target", "prediction"} | {"probability"} & {*columns}
            return {name: columns[name][order] for name in names}
    except FileNotFoundError:
        raise InputError(f"{run.name}: holds no predictions/test.npz") from None
    except Exception as error:  # what a damaged archive raises is nowhere promised
        raise InputError(f"{shown(path)}: not readable: {error}; remove it") from None
