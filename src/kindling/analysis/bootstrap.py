"""Bootstrap intervals of a run's test metrics, and the metrics of its baseline.

The resampling is our own where torchmetrics are computed: `scipy.stats.bootstrap` draws resamples
of all n samples, one statistic at a time. Here all metrics share a resample, and its size is
limited, without which a large test split takes minutes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric, MetricCollection

    from src.kindling.analysis.predictions import Array, Predictions
    from src.kindling.training.trained_run import TrainedRun

RESAMPLES = 400
MAX_SAMPLES = 5_000  # of a resample

Interval = tuple[float, float]
Statistic = Callable[["Tensor"], "dict[str, Tensor]"]  # sample numbers (n,) to metrics by name


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

    if "target" not in predictions.columns:
        return {}, {}
    task: Any = run.build_task()
    if not hasattr(task, "outputs") or not hasattr(task, "test_meter"):
        return {}, {}
    outputs = torch.from_numpy(predictions[task.outputs.column])
    targets = torch.from_numpy(predictions["target"])
    metrics = task.test_meter.metrics
    _keep_local(metrics)
    constant = task.outputs.baseline().expand_as(outputs).contiguous()
    baseline = {name: float(value) for name, value in metrics(constant, targets).items()}
    metrics.reset()
    generator = torch.Generator().manual_seed(0)
    n = len(outputs)
    intervals: dict[str, Interval] = {}
    for resamples, limit, statistic in _plan(dict(metrics.items()), outputs, targets):
        whole, size = statistic(torch.arange(n)), min(n, limit)
        values: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(resamples):
            for name, value in statistic(torch.randint(n, (size,), generator=generator)).items():
                values[name].append(value)
        for name, found in values.items():
            ends = torch.stack(found).double().nanquantile(torch.tensor([0.025, 0.975]).double())
            low, high = (whole[name] + (ends - whole[name]) * math.sqrt(size / n)).tolist()
            if math.isfinite(low):  # NaN: no class, or no pixel, to measure
                intervals[name] = (low, high)
    return intervals, baseline


def bootstrap_mean(scores: Array) -> Interval | None:
    """Compute the 95 % interval of the mean of the samples' scores `(N,)`; None below two."""
    import numpy as np
    from scipy import stats

    if len(scores) < 2 or not np.isfinite(scores).all():
        return None
    found = stats.bootstrap(
        (scores.astype(float),),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=max(1, 2_000_000 // len(scores)),  # 30 MB at a time
        rng=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _keep_local(metrics: MetricCollection) -> None:
    """Compute in this process alone: only the first of several writes the report."""
    from torchmetrics import Metric

    for module in metrics.modules():
        if isinstance(module, Metric):
            module.distributed_available_fn = lambda: False


def _plan(
    metrics: dict[str, Metric], outputs: Tensor, targets: Tensor
) -> Iterator[tuple[int, int, Statistic]]:
    """For groups of metrics: how many resamples, of how many samples at most, and their values."""
    from torchmetrics.utilities import dim_zero_sum

    few = outputs.ndim > 2 or len(outputs) <= RESAMPLES  # masks, or few samples
    counting, listing = {}, {}
    for name, metric in metrics.items():
        modules: list[Any] = list(metric.modules())
        defaults = [state for module in modules for state in module._defaults.values()]
        reductions = list(metric._reductions.values())
        if any(isinstance(state, list) for state in defaults):
            listing[name] = metric
        elif few and reductions and all(kind is dim_zero_sum for kind in reductions):
            yield RESAMPLES, len(outputs), _from_sums(name, metric, outputs, targets)
        else:
            counting[name] = metric
    if counting:
        yield RESAMPLES, MAX_SAMPLES, _from_samples(counting, outputs, targets)
    if listing:  # areas under curves keep every sample, and take ten times as long
        yield RESAMPLES // 8, MAX_SAMPLES // 2, _from_samples(listing, outputs, targets)


def _from_samples(metrics: dict[str, Metric], outputs: Tensor, targets: Tensor) -> Statistic:
    from torchmetrics import MetricCollection

    # Compute groups count true and false positives once for all metrics made of them.
    collection = MetricCollection(metrics, compute_groups=True)  # type: ignore[arg-type]

    def statistic(rows: Tensor) -> dict[str, Tensor]:
        collection.reset()
        collection.update(outputs[rows], targets[rows])
        return collection.compute()

    return statistic


def _from_sums(name: str, metric: Metric, outputs: Tensor, targets: Tensor) -> Statistic:
    """A metric whose states are sums: each sample is read once, and its states are weighted."""
    import torch

    states: dict[str, list[Tensor]] = {key: [] for key in metric._defaults}
    for i in range(len(outputs)):
        metric.update(outputs[i : i + 1], targets[i : i + 1])
        for key, values in states.items():
            values.append(getattr(metric, key).clone())
        metric.reset()
    stacked = {key: torch.stack(values) for key, values in states.items()}
    flat = {key: values.reshape(len(values), -1).double() for key, values in stacked.items()}

    def statistic(rows: Tensor) -> dict[str, Tensor]:
        counts = torch.bincount(rows, minlength=len(outputs)).double()
        sums = {
            key: (counts @ values).reshape(stacked[key].shape[1:]).to(stacked[key].dtype)
            for key, values in flat.items()
        }
        # Past `__setattr__`, which takes longer than all else here; `_computed` is a cached value.
        vars(metric).update(sums, _update_count=1, _computed=None)
        value = metric.compute()
        return value if isinstance(value, dict) else {name: value}

    return statistic
