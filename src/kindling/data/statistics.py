"""Statistics of the training split: means, deviations and class counts."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from src.kindling.data.samples import Samples, Source, take
from src.kindling.data.spec import Column, Spec

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel or feature
COUNTED_MASKS = 512  # that estimate how frequent each class is


def describe_samples(
    samples: Samples,
    train: Tensor,
    in_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    moments: Moments,
) -> Spec:
    """Make the spec of samples without categories; shapes are of one sample in a batch."""
    kinds: tuple[Literal["table", "sequence", "image"], ...] = ("table", "sequence", "image")
    kind = kinds[min(len(in_shape), 3) - 1]
    mean, std = moments
    columns: tuple[Column, ...] = ()
    if kind == "table":
        fitted = zip(samples.columns, mean, std, strict=True)
        columns = tuple(Column(name, mean=m, std=s) for name, m, s in fitted)
        mean, std = (0.0,), (1.0,)
    return Spec(
        in_shape=in_shape,
        kind=kind,
        columns=columns,
        mean=mean,
        std=std,
        source_shape=tuple(samples.x[train[:1]].shape[1:]),
        max_value=samples.max_value,
        **{**of_target(samples, train), "target_shape": target_shape},
    )


def of_target(samples: Samples, train: Tensor) -> dict[str, Any]:
    """Return the fields of a spec that follow from the targets of the training samples."""
    kind, count = samples.target_type, len(samples.classes)
    if kind == "mask":  # masks may be files, so count the classes in some of them
        train = train[torch.linspace(0, len(train) - 1, min(len(train), COUNTED_MASKS)).long()]
    y = take(samples.y, train)
    fields: dict[str, Any] = {
        "target": samples.target,
        "target_shape": tuple(y.shape[1:]),
        "classes": samples.classes,
        "num_outputs": count,
    }
    if kind == "values":
        mean, std = mean_and_std(y, torch.arange(len(y)))
        of_values = {"target_mean": mean, "target_std": std, "targets": samples.targets}
        return fields | of_values | {"num_outputs": y.shape[1]}
    if kind == "labels":
        fields["target_mean"] = tuple(y.float().mean(dim=0).tolist())
        counts = y.sum(dim=0)
    else:
        counts = torch.bincount(y.flatten(), minlength=count)[:count]  # without 255, ignored pixels
    return fields | {"class_counts": tuple(counts.tolist())}


def mean_and_std(x: Source, index: Tensor, numbers: int = 1 << 17) -> Moments:
    """Mean and standard deviation of each channel or feature over some samples `(N, C, …)`.

    In double precision and in chunks of `numbers` values; NaN is ignored. A constant channel gets a
    standard deviation of 1, so that dividing by it changes nothing.
    """
    count, total, squares = torch.zeros(3, 1, dtype=torch.float64)
    chunk = max(1, numbers // max(1, x[index[:1]].numel()))
    for part in torch.split(index, chunk):
        values = take(x, part).double()
        values = values.reshape(*values.shape[:2], -1).transpose(0, 1).flatten(1)  # C, N x pixels
        missing = values.isnan()
        count = count + values.shape[1] - missing.sum(dim=1)
        values = values.masked_fill(missing, 0.0)
        total = total + values.sum(dim=1)
        squares = squares + values.square().sum(dim=1)
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std < 1e-8 * mean.abs().clamp(min=1e-4), 1.0, std)
    return tuple(mean.float().tolist()), tuple(std.float().tolist())
