"""Statistics of the training split: means, deviations and class counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from src.kindling.data.preprocess import EncodeTable
from src.kindling.data.samples import Samples, Source, take
from src.kindling.data.spec import Column, Spec

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel or feature
COUNTED_MASKS = 512  # that estimate how frequent each class is
COMPARED_ROWS = 10_000  # that show whether standardized values are different
LEAST_SPREAD = 0.01  # deviations between values that a few others do not dominate


def describe_samples(
    samples: Samples,
    train: Tensor,
    in_shape: tuple[int, ...],
    target_shape: tuple[int, ...],
    moments: Moments,
) -> Spec:
    """Make the spec of samples without categories; shapes are of one sample in a batch."""
    kind: Any = ("table", "sequence", "image")[min(len(in_shape), 3) - 1]
    fields = of_target(samples, train) | {"target_shape": target_shape}
    if kind == "table":
        fitted = zip(samples.columns, *moments, strict=True)
        fields["columns"] = tuple(Column(name, mean=mean, std=std) for name, mean, std in fitted)
    else:
        fields["mean"], fields["std"] = moments
    source_shape = tuple(samples.x[train[:1]].shape[1:])
    return Spec(
        in_shape, kind=kind, source_shape=source_shape, max_value=samples.max_value, **fields
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
        dtype = "float64" if y.dtype is torch.float64 else "float32"
        return fields | of_values | {"num_outputs": y.shape[1], "target_dtype": dtype}
    if kind == "labels":
        fields["target_mean"] = tuple(y.float().mean(dim=0).tolist())
        counts = y.sum(dim=0)
    else:
        counts = torch.bincount(y.flatten(), minlength=count)[:count]  # without 255, ignored pixels
    return fields | {"class_counts": tuple(counts.tolist())}


def mean_and_std(x: Source, index: Tensor, numbers: int = 1 << 17) -> Moments:
    """Mean and standard deviation of each channel or feature, over samples chosen by number.

    Samples are images `(N, C, H, W)`, sequences `(N, T, F)` or rows `(N, F)`.

    In double precision, rounded to float32 unless the source is float64, and in chunks of `numbers`
    values; NaN is ignored. Distances from a value of the channel are summed, since squares of large
    numbers would cancel. A constant channel gets a standard deviation of 1, so that dividing by it
    changes nothing.
    """
    count, total, squares, start = torch.zeros(4, 1, dtype=torch.float64)
    first = take(x, index[:1])
    chunk, dtype = max(1, numbers // max(1, first.numel())), first.dtype
    for part in torch.split(index, chunk):
        values = take(x, part).double()
        if values.ndim == 3:
            values = values.transpose(1, 2)
        values = values.reshape(*values.shape[:2], -1).transpose(0, 1).flatten(1)  # C, N x pixels
        missing = values.isnan()
        if (count == 0).any():
            start = torch.where(count == 0, values.nanmedian(dim=1).values.nan_to_num(), start)
        count = count + values.shape[1] - missing.sum(dim=1)
        values = (values - start.unsqueeze(1)).masked_fill(missing, 0.0)
        total = total + values.sum(dim=1)
        squares = squares + values.square().sum(dim=1)
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    mean, std = start + mean, torch.where(std == 0, 1.0, std)
    if dtype is not torch.float64:
        mean, std = mean.float(), std.float()
    return tuple(mean.tolist()), tuple(std.tolist())


def find_imprecise(samples: Samples, spec: Spec, train: Tensor) -> list[str]:
    """Notes on columns and target values that are nearly equal once they are standardized."""
    index = train[torch.linspace(0, len(train) - 1, min(len(train), COMPARED_ROWS)).long()]
    notes = []
    if spec.columns and isinstance(samples.x, Tensor):
        numbers = [i for i, column in enumerate(spec.columns) if column.kind != "category"]
        encoded = EncodeTable(spec.columns)(take(samples.x, index))  # numbers first
        for i, scaled in zip(numbers, encoded.T, strict=False):
            problem = _compare(samples.x[:, i], index, scaled)
            remedy = "correct them, or set data.scaling=quantile (data=table)"
            notes += [f"{spec.columns[i].name}: {problem}; {remedy}"] if problem else []
    if spec.target_type == "values" and isinstance(samples.y, Tensor):
        for i, name in enumerate(spec.names):
            scaled = (samples.y[index, i].double() - spec.target_mean[i]) / spec.target_std[i]
            problem = _compare(samples.y[:, i], index, scaled.float())
            remedy = "correct them, or predict their logarithm or a difference"
            notes += [f"target {name}: {problem}; {remedy}"] if problem else []
    return notes


def _compare(source: Tensor, index: Tensor, scaled: Tensor) -> str:
    """A problem of what the net takes, `(len(index),)`, for some values of a source `(N,)`."""
    values = source[index]
    scaled, values = scaled[~values.isnan()], values[~values.isnan()]
    cut = max(1, len(values) // 100)
    inner = values.argsort()[cut:-cut]
    spread = float(scaled[inner].std()) if len(set(values[inner].tolist())) > 2 else 1.0
    if spread < LEAST_SPREAD:
        row = int((source - values.median()).abs().nan_to_num().argmax())
        few = f"few values, such as {source[row]:g} (row {row + 1}), dominate the deviation"
        return f"{few}, and the others differ by {spread:.1g} of it"
    different, kept = len(set(values.tolist())), len(set(scaled.tolist()))
    lost = kept < 0.9 * different
    return f"{different:,} different values become {kept:,} in float32" if lost else ""
