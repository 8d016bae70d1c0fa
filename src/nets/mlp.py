"""A multilayer perceptron, for tables and for anything that may be flattened."""

from __future__ import annotations

import math

from torch import Tensor, nn


class MLP(nn.Module):
    """Flattens its input, then alternates linear layers and ReLU.

    Args:
        in_shape: shape of one input, without the batch.
        num_outputs: number of classes or of target values.
        hidden: width of each hidden layer; empty makes a linear model.
        batch_norm: normalize each hidden layer over the batch.
        dropout: share of each hidden layer that is dropped in training.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        hidden: tuple[int, ...] = (64, 64),
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(hidden, default=1) < 1:
            raise ValueError(f"expected hidden layers of at least 1, got {list(hidden)}")
        width = math.prod(in_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for next_width in hidden:
            layers.append(nn.Linear(width, next_width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(next_width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = next_width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, *in_shape)` to `(B, num_outputs)`."""
        logits: Tensor = self.head(self.body(x))
        return logits
