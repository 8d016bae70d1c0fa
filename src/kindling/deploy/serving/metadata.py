"""The metadata of an exported file, checked: the file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    ValidationError,
    model_validator,
)

from src.kindling.data.images.decode import ResizeMode
from src.kindling.data.spec import Spec

Text = Annotated[str, Field(max_length=1000)]
Side = Annotated[int, Field(ge=1, le=10_000)]  # pixels
Border = Annotated[int, Field(ge=0, le=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Resize(_Model):
    do: Literal["resize"]
    size: Annotated[list[Side], Field(min_length=1, max_length=2)]
    longest: Side | None
    how: Literal["NEAREST", "BILINEAR", "BICUBIC"]


class Crop(_Model):
    do: Literal["crop"]
    size: tuple[Side, Side]


class Pad(_Model):
    do: Literal["pad"]
    border: tuple[Border, Border, Border, Border]
    value: Finite


class ToGray(_Model):
    do: Literal["grey"]
    channels: Literal[1, 3]


class ToFloat(_Model):
    do: Literal["floating"]
    scale: bool


Step = Annotated[Resize | Crop | Pad | ToGray | ToFloat, Field(discriminator="do")]


class Prepare(_Model):
    """The arguments of a Preparation."""

    channels: Literal[1, 3]
    size: Side
    fit: ResizeMode
    whole: bool
    max_value: Annotated[Finite, Field(gt=0)]
    steps: Annotated[list[Step], Field(max_length=20)] = []


class Decision(BaseModel):
    kind: Literal["argmax", "threshold", "none"]
    value: Finite | None = None  # the threshold

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.kind == "threshold" and self.value is None:
            raise ValueError("a threshold has no value")
        return self


def _upgrade_spec(values: Any) -> Any:
    """The fields of an older version's spec under their present names."""
    return asdict(Spec.from_plain(values))


def _upgrade_prepare(values: Any) -> Any:
    if isinstance(values, dict) and "white" in values:
        values = {"max_value" if key == "white" else key: v for key, v in values.items()}
    return values


class Metadata(BaseModel):
    """What the server uses of a file's metadata; JSON in all but `run`."""

    run: Text = ""
    spec: Json[Annotated[Spec, BeforeValidator(_upgrade_spec)]]
    prepare: Json[Annotated[Prepare | None, BeforeValidator(_upgrade_prepare)]] = None
    decision: Json[Decision | None] = None


def read_metadata(texts: Mapping[str, str]) -> Metadata:
    """Parse a file's metadata.

    Raises:
        ValueError: with one line about the first problem.
    """
    try:
        return Metadata.model_validate(texts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = " ".join(first["msg"].split())
        raise ValueError(f"metadata {key[:100]}: {reason[:200]}") from None
