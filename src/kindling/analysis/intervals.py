"""95 % confidence intervals of means and of a run's test metrics, and its baseline's metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t

from src.kindling.runs.metric_names import find_limits, is_share

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torchmetrics import Metric, MetricCollection

    from src.kindling.analysis.predictions import Predictions
    from src.kindling.training.trained_run import TrainedRun

BLOCKS = 100  # of samples at most; a metric is computed again without each
# Fewer blocks, but at least 20, where a metric keeps more numbers than this divided by the blocks.
MAX_NUMBERS = 4_000_000

Interval = tuple[float, float]


def mean_interval(
    values: Any,
    groups: Any = None,
    share: bool = False,
    overlap: float = 0.0,
    samples: int | None = None,
    skewed: bool = False,
) -> Interval | None:
    """Compute the 95 % confidence interval of a mean; None if it cannot be computed.

    Args:
        values: `(n,)`.
        groups: of each value, such as a patient, `(n,)`; default: each value is independent.
        share: whether the values are shares, in [0, 1].
        overlap: added to 1/n in the variance: validation samples per training sample, for values
            of folds (Nadeau and Bengio, Machine Learning 52, 2003).
        samples: behind the values, for shares that are all the same; default: number of groups.
        skewed: whether the values may be skewed, such as errors.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(values.mean()) if len(values) else math.nan
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    deviations = np.bincount(codes, weights=values - mean)
    if len(deviations) < 2 or not np.isfinite(values).all():
        return None
    G = len(deviations)
    return _interval(mean, deviations / n, share, skewed, samples or G, 1 + n * overlap)


def _interval(
    value: float, deviations: Any, share: bool, skewed: bool, samples: int, inflation: float = 1.0
) -> Interval:
    """The interval of a sum of independent groups' `deviations` `(G,)` from `value`.

    A t-interval; in the form of Hall, JRSS B 54 (1992), for skewed values, and of Wilson, JASA 22
    (1927), for shares, with the effective sample size of Franco et al., JSSAM 7 (2019).
    """
    G, squares = len(deviations), np.square(deviations).sum()
    quantile = float(t.ppf(0.975, G - 1))
    variance = inflation * G / (G - 1) * float(squares)
    if share and -1e-6 < value < 1 + 1e-6:  # rounded to float32
        unit = value * (1 - value)  # the variance of one value of 0 or 1
        varies = unit > 1e-6 and variance > 1e-10 * unit  # by more than rounding
        shrinkage = quantile**2 * (variance / unit if varies else inflation / samples)
        center = (value + shrinkage / 2) / (1 + shrinkage)
        margin = math.sqrt(shrinkage * unit + shrinkage**2 / 4) / (1 + shrinkage)
        return max(center - margin, 0.0), min(center + margin, 1.0)
    ends = np.array([quantile, -quantile])
    skewness = float((deviations**3).sum() / squares**1.5) if skewed and squares else 0.0
    if abs(skewness) > 1e-6:
        ends = 3 / skewness * (np.cbrt(1 + skewness * (ends - skewness / 6)) - 1)
    low, high = value - math.sqrt(variance) * ends
    return float(low), float(high)


def within_limits(name: str, interval: Interval) -> Interval:
    """Cut an interval to the values that the metric of this name can have, such as R² up to 1."""
    least, most = find_limits(name)
    return max(interval[0], least), min(interval[1], most)


def metric_intervals(
    run: TrainedRun, predictions: Predictions
) -> tuple[dict[str, Interval | None], dict[str, float]]:
    """Compute the 95 % interval of each test metric, and the same metrics of the baseline.

    By a jackknife over samples or groups; where the metric is the mean of the samples' scores, from
    these. A task without `outputs` or `test_meter` has neither.
    """
    import torch
    from torchmetrics import Metric

    from src.kindling.nn.additions import outputs_of

    task: Any = run.build_task()
    known = outputs_of(task) and hasattr(task, "test_meter")
    if "target" not in predictions.columns or not known:
        return {}, {}
    outputs = torch.from_numpy(predictions[task.outputs.column])
    targets = torch.from_numpy(predictions["target"])
    metrics: MetricCollection = task.test_meter.metrics
    for module in metrics.modules():
        if isinstance(module, Metric):  # only the first of several processes writes the report
            module.distributed_available_fn = lambda: False
            module.compute_with_cache = False
    constant = task.outputs.baseline().to(outputs.dtype).expand_as(outputs).contiguous()
    baseline = {name: float(value) for name, value in metrics(constant, targets).items()}

    groups, scores = (predictions.columns.get(column) for column in ("group", "score"))
    mean_score = math.nan if scores is None else float(scores.mean())
    codes = np.arange(len(outputs)) if groups is None else np.unique(groups, return_inverse=True)[1]
    G = int(codes.max(initial=-1)) + 1
    intervals: dict[str, Interval | None] = {}
    if G < 2:
        return intervals, baseline
    for key, metric in metrics.items():
        for name, (value, deviations) in _jackknife(key, metric, outputs, targets, codes).items():
            share = is_share(name) or is_share(type(metric).__name__)
            found: Interval | None = _interval(value, deviations, share, True, G)
            if name == predictions.scored and math.isclose(value, mean_score, rel_tol=1e-4):
                found = mean_interval(scores, groups, share, skewed=True)
            intervals[name] = found and within_limits(name, found)
    return intervals, baseline


def _jackknife(
    key: str, metric: Metric, outputs: Tensor, targets: Tensor, codes: NDArray[Any]
) -> dict[str, tuple[float, NDArray[Any]]]:
    """A metric's values by name, or as `key`, and the deviation of each block of groups `codes`.

    Source: Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 9 (1981).
    """
    from torchmetrics import Metric

    parts = [part for part in metric.modules() if isinstance(part, Metric)]
    lists = any(isinstance(state, list) for part in parts for state in part.metric_state.values())
    most = max(20, min(BLOCKS, MAX_NUMBERS // outputs.numel())) if lists else BLOCKS
    n, G = len(codes), codes.max() + 1
    count = min(G, most)
    block_of = np.random.default_rng(0).permutation(G)[codes] % count
    blocks = [np.flatnonzero(block_of == block) for block in range(count)]
    # Without m of n values, a mean is less by the sum of their deviations / (n - m).
    kept = np.array([1 - len(block) / n for block in blocks])
    whole, *others = [
        value if isinstance(value, dict) else {key: value}
        for value in _leave_out(metric, parts, outputs, targets, blocks)
    ]
    found = {}
    for name, value in whole.items():
        left = np.array([float(other[name]) for other in others])
        deviations = kept * (float(value) - left)
        if np.isfinite(deviations).all():  # else one block has all there is to measure
            found[name] = float(value), deviations
    return found


def _leave_out(
    metric: Metric, parts: list[Metric], outputs: Tensor, targets: Tensor, blocks: list[Any]
) -> Iterator[Any]:
    """Yield a metric's value, then that without each block; sums and lists read samples once."""
    import torch
    from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

    names = [(part, key) for part in parts for key in part.metric_state]

    def read(rows: Any) -> list[Any]:
        metric.reset()
        metric.update(outputs[rows], targets[rows])
        states = [getattr(part, key) for part, key in names]
        # The next reset empties lists.
        return [list(state) if isinstance(state, list) else state for state in states]

    reductions = {part._reductions[key] for part, key in names}
    states = [read(rows) for rows in blocks] if reductions <= {dim_zero_sum, dim_zero_cat} else []
    for block in range(-1, len(blocks)):
        others = [i for i in range(len(blocks)) if i != block]
        if states:
            for number, (part, key) in enumerate(names):
                kept = [states[i][number] for i in others]
                is_list = isinstance(kept[0], list)
                whole = list(chain(*kept)) if is_list else torch.stack(kept).sum(dim=0)
                setattr(part, key, whole)
        else:
            read(np.concatenate([blocks[i] for i in others]))
        yield metric.compute()
