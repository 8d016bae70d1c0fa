"""The preprocessing that a task owns: raw values to standardized ones, on the training device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """`(x - mean) / std` for each channel or feature; its numbers are buffers, saved with the weights.

    Args:
        mean: of each channel or feature, in the raw input's unit.
        std: likewise; none is zero.
        dims: number of dimensions of one input without the batch: 3 for images, 1 for rows of a table.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], dims: int) -> None:
        super().__init__()
        shape = (-1,) + (1,) * (dims - 1)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape))
        self.register_buffer("std", torch.tensor(std).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, …)` uint8 or float to float of the same shape."""
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """The way back: standardized values in the raw unit."""
        return x * self.std + self.mean
