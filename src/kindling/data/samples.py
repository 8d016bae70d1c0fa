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
    """All samples of a source, before the split.

    Attributes:
        x: `N` raw inputs.
        y: class numbers `(N,)` int64; labels (0 or 1) `(N, num_outputs)` int64; values
            `(N, num_outputs)` float32; or masks of class numbers `(N, H, W)` uint8, a source like
            `x`, in which 255 marks ignored pixels.
        classes: the names of classes or labels; empty for values.
        columns: the names of a table's features; empty for images.
        target: what is predicted, with its unit.
        targets: the values' names, where there are several.
        official: the sample numbers of splits that the source itself defines, by stage.
        groups: a group's number for each sample `(N,)`; a group is in one split only.
        time: a number for each sample `(N,)`; the split is chronological, training is oldest.
        name: the display name of a sample: its path, or its row.
        max_value: the largest possible pixel value.
    """

    x: Source
    y: Tensor | Source
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target: str = ""
    targets: tuple[str, ...] = ()
    official: dict[Stage, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    time: Tensor | None = None
    name: Callable[[int], str] = str
    max_value: float = 255.0

    @property
    def target_type(self) -> TargetType:
        """What is predicted of a sample; see `Spec.target_type`."""
        return kind_of_target(self.classes, self.y.ndim - 1 if isinstance(self.y, Tensor) else 2)


def take(x: Source, index: Tensor) -> Tensor:
    """Read inputs `(B, *shape)` by number `(B,)`; index_select is 5 times as fast as indexing."""
    return x.index_select(0, index) if isinstance(x, Tensor) else x[index]
