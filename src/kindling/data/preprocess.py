"""What happens to a batch on the training device: preprocessing, and batch augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.data.masks import IGNORED, VOID
from src.kindling.data.spec import Column, Spec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class InputStats:
    """The inputs that a pretrained net expects; such a net has an attribute `input_stats`.

    Attributes:
        size: height and width.
        mean, std: of each channel, of values from 0 to 1.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, spec: Spec) -> Spec:
        """The spec of data that have been prepared like this."""
        mean = tuple(value * spec.max_value for value in self.mean)
        std = tuple(value * spec.max_value for value in self.std)
        return replace(spec, in_shape=(len(mean), self.size, self.size), mean=mean, std=std)


def build_preprocess(spec: Spec, stats: InputStats | None = None) -> nn.Module:
    """The module from a raw batch of these data to the net's input, a pretrained one's by stats."""
    if stats is not None:
        spec = stats.of(spec)
        return nn.Sequential(Resize(stats.size), Standardize(spec.mean, spec.std, dims=3))
    if spec.columns:
        return EncodeTable(spec.columns)
    dims = 1 if spec.kind == "sequence" else len(spec.in_shape)
    return Standardize(spec.mean, spec.std, dims)


class Standardize(nn.Module):
    """`(x - mean) / std` for each channel or feature; in its own units.

    Args:
        mean, std: of each channel or feature, in the raw input's unit; no std is zero. An array
            gives the buffers its type.
        dims: number of dimensions of one input without the batch: 3 for images, 1 for rows of a
            table and for sequences, whose last dimension is the feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] | Array, std: Sequence[float] | Array, dims: int
    ) -> None:
        super().__init__()
        shape = (-1,) + (1,) * (dims - 1)
        self.register_buffer("mean", torch.as_tensor(mean).reshape(shape))
        self.register_buffer("std", torch.as_tensor(std).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, …)` uint8 or float to float; one channel becomes as many as there are means."""
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Standardized values back in the raw unit."""
        return x * self.std + self.mean


class Resize(nn.Module):
    """Images to `size` x `size`, by linear interpolation that averages where they shrink."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = (size, size)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` uint8 or float to float `(B, C, size, size)`."""
        x = x if x.is_floating_point() else x.float()
        if x.shape[2:] == self.size:
            return x
        return nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True)


class EncodeTable(nn.Module):
    """Rows of numbers and category codes to what a net can take.

    Numbers are standardized in float64, and then rounded to float32: timestamps and other large
    numbers would otherwise become equal. A missing one becomes 0, the mean; an indicator follows
    if the training split had missing numbers. A category becomes one value for each level and a
    last one for missing or unseen levels.

    Args:
        columns: the features, as the training split had them.
    """

    mean: Tensor
    std: Tensor
    middles: Tensor
    widths: Tensor
    numbers: Tensor
    indicated: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        indicated = [i for i in numbers if columns[i].missing]
        mean, std = [columns[i].mean for i in numbers], [columns[i].std for i in numbers]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))
        self.by_quantiles = any(columns[i].quantiles for i in numbers)
        if self.by_quantiles:
            knots = torch.tensor([columns[i].quantiles for i in numbers], dtype=torch.float64)
            self.register_buffer("middles", (knots[:, 1:] + knots[:, :-1]) / 2)
            self.register_buffer("widths", knots.diff(dim=1).clamp(min=1e-300))
        self.register_buffer("numbers", torch.tensor(numbers).long(), persistent=False)
        self.register_buffer("indicated", torch.tensor(indicated).long(), persistent=False)
        categories = (i for i, column in enumerate(columns) if column.kind == "category")
        self.categories = [(i, len(columns[i].categories)) for i in categories]
        self.plain = not self.categories and not indicated

    def forward(self, x: Tensor) -> Tensor:
        """`(B, columns)` to `(B, sum of the columns' widths)`."""
        if self.plain:
            return self._scale(x.double())
        encoded = [self._scale(x[:, self.numbers].double()), x[:, self.indicated].isnan().float()]
        for i, count in self.categories:
            code = torch.nan_to_num(x[:, i].float(), nan=-1.0).long()
            code = torch.where((code < 0) | (code >= count), count, code)
            encoded.append(nn.functional.one_hot(code, count + 1).float())
        return torch.cat(encoded, dim=1)

    def _scale(self, x: Tensor) -> Tensor:
        """`(B, numbers)` float64 to float32."""
        if self.by_quantiles:
            # The share of the steps between quantiles that lie below a number: 0.5 of an empty one.
            below = ((x.unsqueeze(2) - self.middles) / self.widths + 0.5).clamp(0, 1).mean(dim=2)
            scaled = (below - 0.5) * math.sqrt(12)  # uniform, with deviation 1
        else:
            scaled = (x - self.mean) / self.std
        return torch.nan_to_num(scaled.float(), nan=0.0)


def raw_device(preprocess: nn.Module, device: torch.device) -> torch.device:
    """Where raw input for a device is preprocessed: MPS has no float64, which tables need."""
    on_cpu = device.type == "mps" and isinstance(preprocess, EncodeTable)
    return torch.device("cpu") if on_cpu else device


class BatchTransform(nn.Module):
    """A random transform of whole training batches on the training device."""

    mixes = False  # whether it blends targets; class numbers then arrive as shares `(B, classes)`

    def fit(self, spec: Spec) -> None:
        """Read what it needs from the spec, before training; most need nothing."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Transform standardized inputs `(B, …)` and targets `(B, …)`."""
        raise NotImplementedError


class BatchPreparation:
    """Standardizes raw batches and, in training, augments them by batch transforms, in order."""

    preprocess: nn.Module  # raw inputs to standardized ones; there after `fit`

    def __init__(self, augment: Sequence[BatchTransform]) -> None:
        self.augment = augment
        self.mixing = [type(one).__name__ for one in augment if one.mixes]

    def fit(self, spec: Spec, stats: InputStats | None = None) -> None:
        """Prepare inputs as a pretrained net expects; None standardizes by the training split."""
        if self.mixing and spec.target_type == "mask":
            problem = "blends targets, and the classes of a mask cannot be blended; remove it"
            raise InputError(f"data.train_transforms: {self.mixing[0]} {problem}")
        self.spec = spec
        self.preprocess = build_preprocess(spec, stats)
        self.device = self.raw_device = torch.device("cpu")
        for transform in self.augment:
            transform.fit(stats.of(spec) if stats else spec)

    def __call__(self, x: Tensor, y: Tensor, augment: bool = False) -> tuple[Tensor, Tensor]:
        """Standardize raw inputs `(B, *raw_shape)` and, in training, augment them.

        Args:
            x, y: as the loaders give them; x is moved to the device of y.
            augment: apply the batch transforms. If one of them mixes samples, class numbers
                become shares of the classes `(B, classes)`.

        Returns:
            Floats `(B, *in_shape)`, and targets; ignored pixels of a mask are -100.
        """
        if y.device != self.device:
            self.device, self.raw_device = y.device, raw_device(self.preprocess, y.device)
            self.preprocess.to(self.raw_device)
            nn.ModuleList(self.augment).to(y.device)
        x = self.preprocess(x.to(self.raw_device)).to(y.device)
        if augment and self.mixing:
            y = nn.functional.one_hot(y, self.spec.num_outputs) if y.ndim == 1 else y
            y = y if y.is_floating_point() else y.float()
        for transform in self.augment if augment else ():
            x, y = transform(x, y)
        if self.spec.target_type == "mask":
            y = y.long().masked_fill(y == VOID, IGNORED)
        return x, y
