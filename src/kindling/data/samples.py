"""Samples of a source: inputs, targets and what is known about them, before the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from src.kindling.data.spec import TargetType, kind_of_target

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")


class Source(Protocol):
    """Raw inputs by sample number, such as a tensor `(N, *shape)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Tensor:
        """Return a batch `(B, *shape)` for indices `(B,)`; one sample, at its size, for an int."""


@dataclass
class Samples:
    """All `N` samples of a source, before the split.

    Targets `y` are class numbers `(N,)` int64, labels of 0 or 1 `(N, num_outputs)` int64, values
    `(N, num_outputs)` float32 or float64, or masks of class numbers `(N, H, W)` uint8, a source
    like `x`, in which 255 marks ignored pixels.
    """

    x: Source  # raw inputs
    y: Tensor | Source
    classes: tuple[str, ...] = ()  # names of classes or labels; empty for values
    columns: tuple[str, ...] = ()  # names of a table's features; empty for images
    target: str = ""  # what is predicted, with its unit
    targets: tuple[str, ...] = ()  # the values' names, where there are several
    official: dict[Stage, Tensor] = field(default_factory=dict)  # the source's own splits
    groups: Tensor | None = None  # a group's number for each sample; a group is in one split only
    time: Tensor | None = None  # a number for each sample; training takes the oldest
    name: Callable[[int], str] = str  # the display name of a sample: its path, or its row
    max_value: float = 255.0  # the largest possible pixel value

    @property
    def target_type(self) -> TargetType:
        """What is predicted of a sample; see `Spec.target_type`."""
        return kind_of_target(self.classes, self.y.ndim - 1 if isinstance(self.y, Tensor) else 2)


def take(x: Source, index: Tensor) -> Tensor:
    """Read inputs `(B, *shape)` by number `(B,)`; index_select is 5 times as fast as indexing."""
    return x.index_select(0, index) if isinstance(x, Tensor) else x[index]
