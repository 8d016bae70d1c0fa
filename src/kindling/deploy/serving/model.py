"""An exported file as a server uses it: what it says of itself, its answers, and requests gathered into batches.

Imports no torch; src/serving/app.py asks it.
"""

from __future__ import annotations

import asyncio
import io
import json
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from src.kindling.config.errors import InputError
from src.kindling.data.images.prepare import Preparation
from src.kindling.data.masks import indexed, unfit
from src.kindling.data.spec import Spec

Array = np.ndarray[Any, Any]


class Full(Exception):
    """The queue is full."""


class Model:
    """What `python -m src.export` wrote as ONNX.

    Args:
        path: the file.
        threads: that one batch is computed with.

    Raises:
        InputError: when it is no such file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # it would take the other requests' core
        try:
            self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"{path}: not readable as ONNX: {str(error).strip().partition(chr(10))[0]}") from None
        told = self.session.get_modelmeta().custom_metadata_map
        try:
            self.facts = {name: json.loads(told[name]) for name in ("input", "output", "spec", "prepare")}
        except (KeyError, ValueError):
            raise InputError(f"{path}: does not say what it takes and gives; export the run again: "
                             "python -m src.export RUN") from None  # fmt: skip
        self.spec, self.name = Spec.from_plain(self.facts["spec"]), told.get("run", path.name)
        self.type, self.shape = np.dtype(self.facts["input"]["type"]), tuple(self.facts["input"]["shape"][1:])
        self.prepare = Preparation(**self.facts["prepare"]) if self.facts["prepare"] else None
        if self.prepare is None and self.spec.kind != "table":
            raise InputError(f"{path}: takes {self.shape}, which no picture in a file comes to, so it cannot be served")

    def ask(self, x: Array) -> Array:
        """Raw input `(B, *shape)` to probabilities or values `(B, num_outputs)`; of masks `(B, classes, H, W)`."""
        outputs: Array = self.session.run(None, {"input": x})[0]
        return outputs

    def answers(self, outputs: Array, sizes: Sequence[tuple[int, int]] = ()) -> list[dict[str, Any]]:
        """What each request is told; `show` of page.html shows it.

        Args:
            outputs: from `ask`.
            sizes: width and height of each picture, as it was sent; a mask comes back at its picture's.
        """
        spec = self.spec
        if spec.predicts == "mask":
            return [self._mask(row, size) for row, size in zip(outputs, sizes, strict=True)]
        rows = outputs.astype(np.float64)
        if spec.predicts == "values":
            plain = [[float(f"{value:.7g}") for value in row] for row in rows.tolist()]
            return [{"prediction": row[0] if len(row) == 1 else dict(zip(spec.names, row, strict=True)),
                     "target": spec.target} for row in plain]  # fmt: skip
        likely = [dict(zip(spec.classes, row, strict=True)) for row in rows.round(7).tolist()]
        if spec.predicts == "labels":
            labels = [[spec.classes[i] for i in np.flatnonzero(row > 0.5)] for row in rows]
            pairs = zip(labels, likely, strict=True)
            return [{"prediction": names, "probabilities": one} for names, one in pairs]
        best = [spec.classes[i] for i in rows.argmax(axis=1).tolist()]
        return [{"prediction": name, "probability": one[name], "probabilities": one}
                for name, one in zip(best, likely, strict=True)]  # fmt: skip

    def _mask(self, output: Array, size: tuple[int, int]) -> dict[str, Any]:
        """A class for each pixel, as a PNG whose pixels are the class numbers, and the share of each class."""
        best = output.argmax(axis=0).astype(np.uint8)
        shares = np.bincount(best.ravel(), minlength=len(output)) / best.size
        mask, file = indexed(best), io.BytesIO()
        if self.prepare is not None and not self.prepare.steps:  # what steps have done cannot be undone
            mask = unfit(mask, size, self.prepare.fit)
        # The background, and what was cropped away, are clear where the mask is laid over its picture.
        mask.save(file, "PNG", transparency=bytes([0] + 254 * [255] + [0]))
        return {"prediction": "data:image/png;base64," + b64encode(file.getvalue()).decode(),
                "shares": dict(zip(self.spec.classes, shares.round(7).tolist(), strict=True))}  # fmt: skip


class Waiting(NamedTuple):
    """The inputs of one request, `(n, *shape)`, and where its answer goes."""

    x: Array
    answer: asyncio.Future[Array]


class Batches:
    """Gathers what waits into batches: while one is computed in a thread, the next one fills.

    Args:
        model: computes them.
        most: inputs in a batch; a request of more is computed at once, by itself.
        queue: inputs that may wait.
        told: called with the size of each batch.
    """

    def __init__(self, model: Model, most: int, queue: int, told: Any = lambda size: None) -> None:
        self.model, self.most, self.queue, self.told = model, most, queue, told
        self.waiting: deque[Waiting] = deque()
        self.count = 0  # of the inputs that wait
        self.some = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def __call__(self, x: Array) -> Array:
        """The model's outputs for the inputs of one request.

        Raises:
            Full: when as many wait as may; a request is always taken when none waits.
        """
        if self.count and self.count + len(x) > self.queue:
            raise Full
        entry = Waiting(x, asyncio.get_running_loop().create_future())
        self.waiting.append(entry)
        self.count += len(x)
        self.some.set()
        return await entry.answer

    async def run(self) -> None:
        """Compute batches, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.some.wait()
            taken = self._take()
            if not taken:
                continue
            x = taken[0].x if len(taken) == 1 else np.concatenate([entry.x for entry in taken])
            self.told(len(x))
            try:
                outputs = await loop.run_in_executor(self.thread, self.model.ask, x)
            except Exception as error:  # the requests fail, the server goes on
                for entry in taken:
                    if not entry.answer.done():
                        entry.answer.set_exception(error)
                continue
            start = 0
            for entry in taken:
                if not entry.answer.done():
                    entry.answer.set_result(outputs[start : start + len(entry.x)])
                start += len(entry.x)

    def _take(self) -> list[Waiting]:
        """As many of those that wait as fit into a batch; those who gave up waiting are left out."""
        taken: list[Waiting] = []
        size = 0
        while self.waiting and (not taken or size + len(self.waiting[0].x) <= self.most):
            entry = self.waiting.popleft()
            self.count -= len(entry.x)
            if not entry.answer.done():
                taken.append(entry)
                size += len(entry.x)
        if not self.waiting:
            self.some.clear()
        return taken
