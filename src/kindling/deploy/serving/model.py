"""An exported ONNX file: its metadata, its outputs, and the responses made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from PIL import Image
from pydantic import BaseModel, Field, Json, PlainValidator, ValidationError, model_validator

from src.kindling.config.errors import InputError
from src.kindling.data.images.prepare import Finite, Preparation
from src.kindling.data.masks import VOID
from src.kindling.data.spec import Spec
from src.kindling.deploy.serving.decode import Array, peak_pixels
from src.kindling.deploy.serving.responses import ResponseKind, Responses

# The kind of response, by the decision and the dimensions of the output.
RESPONSE_KINDS: dict[tuple[str, int], ResponseKind] = {
    ("argmax", 2): "class",
    ("threshold", 2): "labels",
    ("none", 2): "values",
    ("argmax", 4): "mask",
}
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}
MAX_SIZE = 20_000_000  # values of an input, and pixels of a blank image in its preparation


class Decision(BaseModel):
    kind: Literal["argmax", "threshold", "none"]
    value: Finite | None = None  # the threshold

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.kind == "threshold" and self.value is None:
            raise ValueError("a threshold has no value")
        return self


class Metadata(BaseModel):
    """The metadata that the server uses, JSON in all but `run`; a file may come from anywhere."""

    run: str = Field("", max_length=1000)
    spec: Json[Annotated[Spec, PlainValidator(Spec.from_plain)]]
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


class Model:
    """A file that `python -m src.export` wrote, or InputError; `threads` compute one batch."""

    def __init__(self, path: Path, threads: int) -> None:
        self.session = _open_session(path, threads)
        try:
            texts = self.session.get_modelmeta().custom_metadata_map
            if "spec" not in texts:
                raise InputError(
                    f"{path}: cannot be served: it has no spec, as the export of a plain forward; "
                    "call it from a program with onnxruntime, or give the task outputs and its "
                    "data a spec (docs/how-to/add-a-task.md) and export again"
                )
            metadata = read_metadata(texts)
            self.name, self.spec = metadata.run or path.name, metadata.spec
            self._read_input()
            self.prepare = metadata.prepare
            self._check_preparation()
            self._read_decision(metadata.decision)
        except ValueError as error:
            reason, remedy = str(error)[:500], "export the run again: python -m src.export RUN"
            raise InputError(f"{path}: cannot be served: {reason}; {remedy}") from None

    def _read_input(self) -> None:
        """The input as the net itself declares it."""
        inputs = self.session.get_inputs()
        names = [f"{x.name} {x.type} {x.shape}" for x in inputs]
        if len(inputs) != 1 or inputs[0].type not in DTYPES:
            raise ValueError(
                f"expected one input of uint8, float32 or float64, got {', '.join(names)}"
            )
        sizes = inputs[0].shape[1:]
        if not all(isinstance(size, int) and 0 < size <= MAX_SIZE for size in sizes):
            raise ValueError(f"expected sizes from 1 to {MAX_SIZE:,}, got {names[0]}")
        if math.prod(sizes) > MAX_SIZE:
            raise ValueError(f"more than {MAX_SIZE:,} values in one input: {names[0]}")
        self.input_name, self.dtype, self.shape = inputs[0].name, DTYPES[inputs[0].type], (*sizes,)

    def _compute_output_shape(self) -> tuple[int, ...]:
        """The shape of the output for one input of zeros, which also warms the session up."""
        try:
            shape: tuple[int, ...] = self.predict(np.zeros((1, *self.shape), self.dtype)).shape
        except Exception as error:  # onnxruntime's own classes
            raise ValueError(f"it computes nothing: {str(error).partition(chr(10))[0]}") from None
        count = self.spec.num_outputs
        if len(shape) < 2 or shape[:2] != (1, count):
            raise ValueError(f"its output is {shape}, and spec.num_outputs {count}")
        names = len(set(self.spec.names))
        if names != count:
            raise ValueError(f"spec has {names} names for {count} outputs")
        return shape

    def _read_decision(self, decision: Decision | None) -> None:
        shape = self._compute_output_shape()
        if decision is None:  # an older version's
            decision = Decision(kind="argmax" if self.spec.classes else "none")
            if self.spec.classes and len(self.spec.target_shape) == 1:
                decision = Decision(kind="threshold", value=0.5)
        kind = RESPONSE_KINDS.get((decision.kind, len(shape)))
        if kind is None:
            raise ValueError(f"no decision {decision.kind!r} is known for outputs {shape[1:]}")
        if kind == "mask" and len(self.spec.names) > VOID:
            raise ValueError(f"a mask of more than {VOID} classes")
        self.responses = Responses(self.spec, kind, decision.value or 0.0, self.prepare)

    def _check_preparation(self) -> None:
        """Compare the input's shape with that of a prepared blank image, or of a row."""
        if self.prepare is None:
            if self.spec.kind != "table":
                raise ValueError(f"no image file has the input shape {self.shape}")
            shape: tuple[int, ...] = (len(self.spec.columns),)
        else:
            blank = Image.new("L", (self.prepare.size, self.prepare.size))
            if peak_pixels(blank.size, self.prepare) > MAX_SIZE:
                raise ValueError(f"its steps make images of more than {MAX_SIZE:,} pixels")
            shape = self.prepare(blank).shape
        if shape != self.shape:
            raise ValueError(f"images or rows have the shape {shape}, and the input {self.shape}")

    def predict(self, x: Array) -> Array:
        """Map raw inputs `(B, *shape)` to outputs `(B, num_outputs)`, or `(B, classes, H, W)`."""
        outputs: Array = self.session.run(None, {self.input_name: x})[0]
        return outputs


def _open_session(path: Path, threads: int) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning would take the core of the other requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Without the fallback, which prints five lines and then fails alike.
        return InferenceSession(path, options, ["CPUExecutionProvider"], enable_fallback=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: not readable as ONNX: {reason}; export the run again") from None
