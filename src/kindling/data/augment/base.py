"""The interface of random transforms of whole batches."""

from __future__ import annotations

from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec


class BatchTransform(nn.Module):
    """A random transform of whole training batches on the training device.

    Attributes:
        mixes: whether it blends targets; it then receives class numbers as one-hot shares
            `(B, classes)`.
    """

    mixes = False

    def fit(self, spec: Spec) -> None:
        """Read what it needs from the spec, before training; most need nothing."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Transform standardized inputs `(B, …)` and targets `(B, …)`.

        A geometric transform moves masks `(B, H, W)` together with the pixels.
        """
        raise NotImplementedError


def check_probability(p: float, name: str) -> float:
    if not 0 <= p <= 1:
        raise InputError(f"data.train_transforms: {name} needs a p from 0 to 1, got {p:g}")
    return p
