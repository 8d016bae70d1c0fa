"""The metadata of an exported file, checked: the file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    ValidationError,
    model_validator,
)

from src.kindling.data.images.prepare import Finite, Preparation
from src.kindling.data.spec import Spec


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
    prepare: Json[Preparation | None] = None
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
