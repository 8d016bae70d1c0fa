"""An exported file as a server uses it: what it says of itself, its answers, and requests gathered into batches.

Imports no torch; src/serving/app.py asks it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

from src.data.prepare import Preparation
from src.data.spec import Spec
from src.errors import InputError

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
        """Raw input `(B, *shape)` to probabilities or values `(B, num_outputs)`."""
        outputs: Array = self.session.run(None, {"input": x})[0]
        return outputs

    def answers(self, outputs: Array) -> list[dict[str, Any]]:
        """What each request is told. Another kind of output gets its case here, and in `show` of page.html."""
        rows = outputs.astype(np.float64)
        if self.facts["output"]["name"] == "probability":
            classes, best = self.spec.classes, rows.argmax(axis=1).tolist()
            return [
                {"prediction": classes[i], "probability": row[i], "probabilities": dict(zip(classes, row, strict=True))}
                for i, row in zip(best, rows.round(7).tolist(), strict=True)
            ]
        plain = [[float(f"{value:.7g}") for value in row] for row in rows.tolist()]
        return [{"prediction": row[0] if len(row) == 1 else row, "target": self.spec.target} for row in plain]


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
