"""95 % confidence intervals of means and of a run's test metrics, and its baseline's metrics.

The resampling is our own where torchmetrics are computed: `scipy.stats.bootstrap` draws resamples
of all n samples, one statistic at a time, and torchmetrics' `BootStrapper` keeps a copy of the
metric for each resample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric, MetricCollection

    from src.kindling.analysis.predictions import Predictions
    from src.kindling.training.trained_run import TrainedRun

RESAMPLES = 400
MAX_SAMPLES = 5_000  # of a resample

Interval = tuple[float, float]
Statistic = Callable[["Tensor"], "dict[str, Tensor]"]  # sample numbers (n,) to metrics by name


def mean_interval(
    values: Any, groups: Any = None, share: bool = False, overlap: float = 0.0
) -> Interval | None:
    """Compute the 95 % confidence interval of a mean; None if it cannot be computed.

    A t-interval; with groups, from the sums of the groups. The mean of a share gets Wilson's
    interval, which stays within [0, 1], at the effective sample size mean * (1 - mean) / variance;
    that is n for independent values of 0 or 1.

    Args:
        values: `(n,)`.
        groups: of each value, such as a patient, `(n,)`; default: each value is independent.
        share: whether the values are shares, in [0, 1].
        overlap: added to 1/n in the variance: validation samples per training sample, where each
            value is measured on one fold and the trainings share samples.

    Source:
        Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003).
        Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22
        (1927); effective sample size: Franco et al., "Comparative Study of Confidence Intervals for
        Proportions in Complex Sample Surveys", JSSAM 7 (2019).
    """
    import numpy as np
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(values.mean()) if len(values) else math.nan
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    deviations = np.bincount(codes, weights=values - mean)
    G = len(deviations)
    if G < 2 or not np.isfinite(values).all():
        return None
    # The variance of the mean of G independent groups; for groups of one, stdev(values)² / n.
    variance = G / (G - 1) * float(np.square(deviations).sum()) / n**2
    quantile = float(t.ppf(0.975, G - 1))
    margin = quantile * math.sqrt(variance * (1 + n * overlap))
    if not share or not 0 < mean < 1:
        return mean - margin, mean + margin
    shrinkage = margin**2 / (mean * (1 - mean))  # quantile² / effective sample size
    center = (mean + shrinkage / 2) / (1 + shrinkage)
    margin = math.sqrt(margin**2 + shrinkage**2 / 4) / (1 + shrinkage)
    return center - margin, center + margin


def bootstrap(
    run: TrainedRun, predictions: Predictions
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Compute the 95 % interval of each test metric, and the same metrics of the baseline.

    The baseline knows only the training targets (`outputs.baseline`). A resample has at most
    `MAX_SAMPLES` samples; its spread is scaled by the root of their share to that of all samples
    (the m out of n bootstrap). A task without `outputs` or `test_meter` has neither.

    Source: Bickel, Götze and van Zwet, Statistica Sinica 7, 1997.
    """
    import torch
    from torchmetrics import Metric

    task: Any = run.build_task()
    known = hasattr(task, "outputs") and hasattr(task, "test_meter")
    if "target" not in predictions.columns or not known:
        return {}, {}
    outputs = torch.from_numpy(predictions[task.outputs.column])
    targets = torch.from_numpy(predictions["target"])
    metrics: MetricCollection = task.test_meter.metrics
    for module in metrics.modules():
        if isinstance(module, Metric):  # only the first of several processes writes the report
            module.distributed_available_fn = lambda: False
    constant = task.outputs.baseline().to(outputs.dtype).expand_as(outputs).contiguous()
    baseline = {name: float(value) for name, value in metrics(constant, targets).items()}
    metrics.reset()

    generator = torch.Generator().manual_seed(0)
    n = len(outputs)
    ends = torch.tensor([0.025, 0.975]).double()
    intervals: dict[str, Interval] = {}
    for statistic, limit, resamples in _plan(metrics, outputs, targets):
        whole, size = statistic(torch.arange(n)), min(n, limit)
        values: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(resamples):
            for name, value in statistic(torch.randint(n, (size,), generator=generator)).items():
                values[name].append(value)
        for name, found in values.items():
            quantiles = torch.stack(found).double().nanquantile(ends)
            low, high = whole[name] + (quantiles - whole[name]) * math.sqrt(size / n)
            if low.isfinite():  # NaN: no class, or no pixel, to measure
                intervals[name] = (float(low), float(high))
    return intervals, baseline


def _plan(
    metrics: MetricCollection, outputs: Tensor, targets: Tensor
) -> Iterator[tuple[Statistic, int, int]]:
    """For groups of metrics: their values, and the samples at most and the number of resamples."""
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_sum

    counting, listing = {}, {}
    for name, metric in metrics.items():
        parts = [part for part in metric.modules() if isinstance(part, Metric)]
        states = [state for part in parts for state in part.metric_state.values()]
        if any(isinstance(state, list) for state in states):
            listing[name] = metric
        elif outputs.ndim > 2 and {*metric._reductions.values()} == {dim_zero_sum}:
            yield _from_sums(name, metric, outputs, targets), len(outputs), RESAMPLES
        else:
            counting[name] = metric
    if counting:
        yield _from_samples(counting, outputs, targets), MAX_SAMPLES, RESAMPLES
    if listing:  # areas under curves keep every sample, and take ten times as long
        yield _from_samples(listing, outputs, targets), MAX_SAMPLES // 2, RESAMPLES // 8


def _from_samples(metrics: dict[str, Any], outputs: Tensor, targets: Tensor) -> Statistic:
    from torchmetrics import MetricCollection

    # Compute groups count true and false positives once for all metrics made of them.
    collection = MetricCollection(metrics, compute_groups=True)

    def statistic(rows: Tensor) -> dict[str, Tensor]:
        collection.reset()
        collection.update(outputs[rows], targets[rows])
        return collection.compute()

    return statistic


def _from_sums(name: str, metric: Metric, outputs: Tensor, targets: Tensor) -> Statistic:
    """A metric of masks whose states are sums: each mask is read once, and its states are added."""
    import torch

    states: dict[str, list[Tensor]] = defaultdict(list)
    for i in range(len(outputs)):
        metric.reset()
        metric.update(outputs[i : i + 1], targets[i : i + 1])
        for key, value in metric.metric_state.items():
            states[key].append(torch.as_tensor(value).clone())
    stacked = {key: torch.stack(values) for key, values in states.items()}
    metric.compute_with_cache = False

    def statistic(rows: Tensor) -> dict[str, Tensor]:
        for key, values in stacked.items():
            setattr(metric, key, values[rows].sum(dim=0))
        value = metric.compute()
        return value if isinstance(value, dict) else {name: value}

    return statistic
