"""What a net and a task need to know of the data, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import TypeAdapter, ValidationError

TargetType = Literal["class", "labels", "values", "mask"]


def kind_of_target(classes: tuple[str, ...], dims: int) -> TargetType:
    """Tell class, labels and mask apart by a target's dimensions; without classes, values."""
    kinds: tuple[TargetType, ...] = ("class", "labels", "mask")
    return kinds[dims] if classes else "values"


@dataclass(frozen=True)
class Column:
    """One feature of a table, as it was in the training split.

    A batch holds numbers unchanged (missing: NaN), booleans as 0 or 1, and categories as their
    index in `categories` (missing, or not seen in training: -1). With any number `missing` in
    training, the net receives an indicator of it. Numbers are standardized by `mean` and `std`, or
    by their rank among `quantiles`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str
    kind: Literal["number", "boolean", "category"] = "number"
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    missing: bool = False
    quantiles: tuple[float, ...] = ()  # at equal steps, from the minimum to the maximum

    @property
    def width(self) -> int:
        """The number of values that the net receives for it."""
        return len(self.categories) + 1 if self.kind == "category" else 1 + self.missing


@dataclass(frozen=True)
class Spec:
    """The shape and meaning of a data set; the data module makes it, every checkpoint holds it.

    Nets and tasks receive it by the parameter name `spec`, and its first two fields by their names.
    Statistics are of the training split.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    in_shape: tuple[int, ...]  # what the net receives of a sample: (C, H, W), (T, F) or (features,)
    num_outputs: Annotated[int, Interval(ge=1, le=1_000_000)]  # classes, labels or target values
    kind: Literal["image", "table", "sequence"]
    classes: tuple[str, ...] = ()  # names of classes or labels; empty for values
    class_counts: tuple[int, ...] = ()  # samples of each class or label; for masks pixels
    columns: tuple[Column, ...] = ()  # the features of a table; empty for images
    target: str = ""  # what is predicted (a column's name, say), with its unit where one is known
    targets: tuple[str, ...] = ()  # the values' names, where there are several
    target_shape: tuple[int, ...] = ()  # () of a class, (K,) of labels or values, (H, W) of masks
    mean: tuple[float, ...] = (0.0,)  # of each channel of raw images
    std: tuple[float, ...] = (1.0,)
    target_mean: tuple[float, ...] = ()  # of each target value; of labels, their share
    target_std: tuple[float, ...] = ()  # of each target value
    target_dtype: str = "float32"  # of target values; float64 where float32 would round them
    source_shape: tuple[int, ...] = ()  # of a sample before eval_transforms; () in old checkpoints
    max_value: float = 255.0  # the largest value that a raw pixel can have

    @property
    def target_type(self) -> TargetType:
        """The kind of target: one class of several, any of several labels, values, or a mask."""
        return kind_of_target(self.classes, len(self.target_shape))

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the `num_outputs` is called."""
        name = self.target or "value"
        numbered = [f"{name} {i + 1}" for i in range(self.num_outputs)]
        return self.classes or self.targets or ((name,) if self.num_outputs == 1 else (*numbered,))

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """What a batch holds for one sample, before preprocessing."""
        return (len(self.columns),) if self.columns else self.in_shape

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Spec:
        """Make a spec from the plain values of `dataclasses.asdict`, also an older version's.

        Raises:
            ValueError: when a file holds something else.
        """
        try:
            columns = [_rename(column, "levels", "categories") for column in values["columns"]]
            plain = _rename({**values, "columns": columns}, "white", "max_value")
            if not plain["classes"]:  # a checkpoint from before there were others
                plain.setdefault("target_shape", (plain["num_outputs"],))
            spec = TypeAdapter(cls).validate_python(plain)
            counts = {len(spec.names), len(spec.class_counts or spec.names), spec.num_outputs}
            if len(counts) > 1 or not spec.target_type:
                raise ValueError(f"num_outputs: {spec.num_outputs}, and {len(spec.names)} names")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return spec


def _rename(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in values.items()}
