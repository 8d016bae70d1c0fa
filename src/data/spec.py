"""What a net and a task need to know of the data, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spec:
    """The shape and meaning of a data set; the data module makes it, every checkpoint holds it.

    Nets and tasks receive it by the parameter name `spec`, and its first two fields by their own names; for nets
    from elsewhere a config says `num_classes: ${spec.num_outputs}`. So no count or shape is ever typed.

    Attributes:
        in_shape: what the net receives, without the batch: `(C, H, W)` or `(features,)`.
        num_outputs: number of classes, or of target values.
        kind: `image` or `table`.
        classes: the classes' names; empty for regression.
        class_counts: training samples of each class; empty for regression.
        features: the columns' names; empty for images.
        target: what is predicted (a column's name, say), with its unit where one is known.
        mean, std: of each channel or feature of the raw input, over the training split.
        target_mean, target_std: of each target value over the training split; empty for classification.
    """

    in_shape: tuple[int, ...]
    num_outputs: int
    kind: Literal["image", "table"]
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    features: tuple[str, ...] = ()
    target: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
