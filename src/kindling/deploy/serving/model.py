"""An exported ONNX file: its metadata, its outputs, and the responses made from them."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from src.kindling.config.errors import InputError
from src.kindling.data.images.prepare import Preparation
from src.kindling.data.masks import indexed, unfit
from src.kindling.data.spec import Spec
from src.kindling.deploy.serving.decode import Array

Response = dict[str, Any]
# The kind of response, by the decision and the dimensions of the output.
RESPONSE_KINDS = {
    ("argmax", 2): "class",
    ("threshold", 2): "labels",
    ("none", 2): "values",
    ("argmax", 4): "mask",
}


class Model:
    """A file that `python -m src.export` wrote; `threads` compute one batch.

    Raises:
        InputError: when it is not such a file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.session = _open_session(path, threads)
        texts = self.session.get_modelmeta().custom_metadata_map
        self.name = texts.get("run", path.name)
        if "spec" not in texts:
            raise InputError(
                f"{path}: cannot be served: it has no spec, as the export of a plain forward; call "
                "it from a program with onnxruntime, or give the task outputs and its data a spec "
                "(docs/add-a-task.md) and export again"
            )
        try:
            self._read_metadata(texts)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"missing or unknown metadata ({type(error).__name__}: {error})"
            remedy = "export the run again: python -m src.export RUN"
            raise InputError(f"{path}: {reason}; {remedy}") from None
        if self.prepare is None and self.spec.kind != "table":
            reason = f"no image file has the input shape {self.shape}"
            raise InputError(f"{path}: cannot be served: {reason}; call it from a program instead")

    def _read_metadata(self, texts: Mapping[str, str]) -> None:
        self.spec = Spec.from_plain(json.loads(texts["spec"]))
        self.input, self.output = json.loads(texts["input"]), json.loads(texts["output"])
        self.dtype, self.shape = np.dtype(self.input["type"]), tuple(self.input["shape"][1:])
        prepare = json.loads(texts["prepare"])
        if prepare and "white" in prepare:  # an older version's
            prepare["max_value"] = prepare.pop("white")
        self.prepare = Preparation(**prepare) if prepare else None
        decision = json.loads(texts.get("decision", "null"))
        if decision is None:  # an older version's
            decision = {"kind": "argmax" if self.spec.classes else "none"}
            if self.spec.classes and len(self.spec.target_shape) == 1:
                decision = {"kind": "threshold", "value": 0.5}
        self.response_kind = RESPONSE_KINDS[decision["kind"], len(self.output["shape"])]
        self.threshold = float(decision["value"]) if self.response_kind == "labels" else 0.0

    def predict(self, x: Array) -> Array:
        """Map raw inputs `(B, *shape)` to outputs `(B, num_outputs)`, or `(B, classes, H, W)`."""
        outputs: Array = self.session.run(None, {"input": x})[0]
        return outputs

    def format_responses(
        self, outputs: Array, sizes: Sequence[Sequence[int]] = ()
    ) -> list[Response]:
        """The response for each input; `showResponse` of page.html displays it.

        Args:
            outputs: from `predict`.
            sizes: width and height of each image as sent, which is the size of its mask.
        """
        if self.response_kind == "mask":
            return [self._mask(row, size) for row, size in zip(outputs, sizes, strict=True)]
        formats = {"class": self._class, "labels": self._labels, "values": self._values}
        return [formats[self.response_kind](row) for row in outputs.astype(np.float64)]

    def _class(self, row: Array) -> Response:
        best, probabilities = self.spec.names[row.argmax()], self._name(row.round(7))
        probability = probabilities[best]
        return {"prediction": best, "probability": probability, "probabilities": probabilities}

    def _labels(self, row: Array) -> Response:
        labels = [self.spec.names[i] for i in np.flatnonzero(row > self.threshold)]
        return {"prediction": labels, "probabilities": self._name(row.round(7))}

    def _values(self, row: Array) -> Response:
        digits = 15 if self.output["type"] == "float64" else 7
        values = self._name(float(f"{value:.{digits}g}") for value in row)
        prediction = values if len(values) > 1 else next(iter(values.values()))
        return {"prediction": prediction, "target": self.spec.target}

    def _name(self, values: Any) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.spec.names, values, strict=True)}

    def _mask(self, output: Array, size: Sequence[int]) -> Response:
        """A PNG whose pixels are the class numbers, and the share of each class."""
        best = output.argmax(axis=0).astype(np.uint8)
        shares = np.bincount(best.ravel(), minlength=len(output)) / best.size
        mask, file, (width, height) = indexed(best), io.BytesIO(), size
        if self.prepare is not None and not self.prepare.steps:  # steps cannot be undone
            mask = unfit(mask, (width, height), self.prepare.fit)
        # The background and the cropped area are transparent where the mask overlays its image.
        mask.save(file, "PNG", transparency=bytes([0] + 254 * [255] + [0]))
        url = "data:image/png;base64," + b64encode(file.getvalue()).decode()
        return {"prediction": url, "shares": self._name(shares.round(7))}


def _open_session(path: Path, threads: int) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning would take the core of the other requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: not readable as ONNX: {reason}; export the run again") from None
