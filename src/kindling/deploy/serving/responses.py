"""The responses made from a model's outputs."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from src.kindling.data.images.prepare import Preparation
from src.kindling.data.masks import indexed, unfit
from src.kindling.data.spec import Spec
from src.kindling.deploy.serving.decode import Array

Response = dict[str, Any]
ResponseKind = Literal["class", "labels", "values", "mask"]


@dataclass(frozen=True)
class Responses:
    """How outputs become responses; large ones are made in a decoder process."""

    spec: Spec
    kind: ResponseKind
    threshold: float  # above which a label is predicted
    prepare: Preparation | None  # of images, which a mask undoes

    def format(self, outputs: Array, sizes: Sequence[Sequence[int]] = ()) -> list[Response]:
        """Make the response for each input; a mask has the size of its image as sent."""
        if self.kind == "mask":
            return [self._mask(row, size) for row, size in zip(outputs, sizes, strict=True)]
        formats = {"class": self._class, "labels": self._labels, "values": self._values}
        return [formats[self.kind](row) for row in outputs.astype(np.float64)]

    def _class(self, row: Array) -> Response:
        best, probabilities = self.spec.names[row.argmax()], self._name(row.round(7))
        probability = probabilities[best]
        return {"prediction": best, "probability": probability, "probabilities": probabilities}

    def _labels(self, row: Array) -> Response:
        labels = [self.spec.names[i] for i in np.flatnonzero(row > self.threshold)]
        return {"prediction": labels, "probabilities": self._name(row.round(7))}

    def _values(self, row: Array) -> Response:
        digits = 15 if self.spec.target_dtype == "float64" else 7
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
