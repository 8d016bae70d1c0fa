"""The metadata of an exported file, checked: the file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    ValidationError,
    model_validator,
)

from src.kindling.data.images.decode import ResizeMode
from src.kindling.data.spec import Spec

Side = Annotated[int, Field(ge=1, le=10_000)]  # pixels
Border = Annotated[int, Field(ge=0, le=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Resize(BaseModel, extra="forbid"):
    do: Literal["resize"]
    size: Annotated[list[Side], Field(min_length=1, max_length=2)]
    longest: Side | None
    how: Literal["NEAREST", "BILINEAR", "BICUBIC"]


class Crop(BaseModel, extra="forbid"):
    do: Literal["crop"]
    size: tuple[Side, Side]


class Pad(BaseModel, extra="forbid"):
    do: Literal["pad"]
    border: tuple[Border, Border, Border, Border]
    value: Finite


class ToGray(BaseModel, extra="forbid"):
    do: Literal["grey"]
    channels: Literal[1, 3]


class ToFloat(BaseModel, extra="forbid"):
    do: Literal["floating"]
    scale: bool


Step = Annotated[Resize | Crop | Pad | ToGray | ToFloat, Field(discriminator="do")]


class Prepare(BaseModel, extra="forbid"):
    """The arguments of a Preparation."""

    channels: Literal[1, 3]
    size: Side
    fit: ResizeMode
    whole: bool
    # An older version's file names it `white`.
    max_value: Finite = Field(gt=0, validation_alias=AliasChoices("max_value", "white"))
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


class Metadata(BaseModel):
    """The part of a file's metadata that the server uses; JSON in all but `run`."""

    run: str = Field("", max_length=1000)
    spec: Json[Annotated[Spec, BeforeValidator(_upgrade_spec)]]
    prepare: Json[Prepare | None] = None
    decision: Json[Decision | None] = None


def read_metadata(texts: Mapping[str, str]) -> Metadata:
    """Parse a file's metadata, or raise a ValueError with one line about the first problem."""
    try:
        return Metadata.model_validate(texts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise ValueError(f"metadata {key[:100]}: {reason[:200]}") from None
