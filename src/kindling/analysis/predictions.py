"""What a task says of every sample of a split: the columns of its `predict_step`, in memory or in a file.

predictions = predict(run.task, run.data(), "test")
predictions["probability"]                            # (N, classes), as predict_step names it
predictions.name(0), predictions.inputs([0, 1, 2])    # the samples behind the rows
run.task.figures(predictions)                         # its pictures, by name
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.batch import BatchOrder, Samples, Stage, take
from src.kindling.data.loader import Loader, as_it_is
from src.kindling.data.spec import Spec

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from src.kindling.data.data_module import DataModule

Array = np.ndarray[Any, Any]


class Predictions:
    """Named columns of numbers, a row for each sample of one split.

    Args:
        columns: by name, each `(N, …)`; `index` `(N,)` holds the samples' numbers in the source.
        spec: of the data.
        stage: the split.
        samples: the source, for `inputs` and `name`; None where only the columns are at hand.
        scored: what the column `score` `(N,)` says of each sample (`accuracy`, 0 or 1, say); empty where there is none.
    """

    def __init__(
        self, columns: dict[str, Array], spec: Spec, stage: Stage, samples: Samples | None = None, scored: str = ""
    ) -> None:
        self.columns, self.spec, self.samples, self.scored = columns, spec, samples, scored
        self.stage: Stage = stage

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.columns["index"])

    def take(self, rows: Any) -> Predictions:
        """Some rows, by number or by mask."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Predictions(columns, self.spec, self.stage, self.samples, self.scored)

    def inputs(self, rows: Any) -> Tensor:
        """The raw inputs of some rows' samples, `(rows, *shape)`, as the source has them."""
        if self.samples is None:
            raise RuntimeError("these predictions were loaded without their data")
        return take(self.samples.x, torch.from_numpy(self["index"][rows]))

    def name(self, row: int) -> str:
        """What a person calls a row's sample: its path, or its row in the table; else its number."""
        index = int(self["index"][row])
        return self.samples.name(index) if self.samples else str(index)

    def save(self, path: Path) -> None:
        """Write the columns, the spec and the stage as .npz; the file is whole or not there."""
        about = json.dumps({"stage": self.stage, "spec": dataclasses.asdict(self.spec), "scored": self.scored})
        arrays: dict[str, Any] = {"about.json": np.array(about), **self.columns}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path, data: DataModule | None = None) -> Predictions:
        """Read what `save` has written; with the run's `data`, for `inputs` and `name`.

        Raises:
            InputError: when the file is missing or damaged.
        """
        from src.kindling.runs.files import shown

        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            about = json.loads(str(columns.pop("about.json")))
        except FileNotFoundError:
            raise InputError(f"{shown(path)}: no such predictions") from None
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{shown(path)}: not readable: {error}; remove it") from None
        spec, samples = Spec.from_plain(about["spec"]), data.samples if data else None
        return cls(columns, spec, about["stage"], samples, about.get("scored", ""))


def predict(task: LightningModule, data: DataModule, stage: Stage, limit: int | None = None) -> Predictions:
    """Run a task over one split, without a Trainer, on the task's device; the task is left as it was.

    Every sample comes once, in the split's order and without random transforms, those of the training split too.

    Args:
        task: its `predict_step` returns named columns `(B, …)` for a batch; where it has a `score`, that is another.
        data: after `setup`.
        stage: the split.
        limit: only so many samples, evenly spread over the split, always the same, and read without workers.
    """
    index = data.indices[stage]
    if limit is not None:
        index = index[spread(len(index), limit)]
    order, workers = BatchOrder(index, data.batch_size, None), data.num_workers if limit is None else 0
    loader = Loader(data.datasets["test" if stage == "train" else stage], sampler=order, batch_size=None,
                    collate_fn=as_it_is, num_workers=workers, generator=torch.Generator())  # fmt: skip
    modes = [(module, module.training) for module in task.modules()]
    columns: dict[str, Array] = {"index": np.empty(len(index), np.int64)}
    rows, score = 0, getattr(task, "score", None)
    task.eval()
    try:
        with torch.inference_mode(), nullcontext() if limit is None else eager(task):
            for number, batch in enumerate(loader):
                x = batch.x.to(task.device, task.dtype if batch.x.is_floating_point() else None)
                found = task.predict_step(batch._replace(x=x, y=batch.y.to(task.device)), number)
                if score is not None:
                    found["score"] = score(measured(task, found), found["target"])
                for name, value in {**found, "index": batch.index}.items():
                    values = (value.float() if value.is_floating_point() else value).cpu().numpy()
                    if name not in columns:
                        columns[name] = np.empty((len(index), *values.shape[1:]), values.dtype)
                    columns[name][rows : rows + len(batch.index)] = values
                rows += len(batch.index)
    finally:
        for module, training in modes:
            module.training = training
    columns = {name: values[:rows] for name, values in columns.items()}
    return Predictions(columns, data.spec, stage, data.samples, getattr(task, "scored", "") if score else "")


def measured(task: Any, columns: Mapping[str, Any]) -> Any:
    """Of the columns, what the task's metrics and its `score` take: the answer where it is kept, else the prediction."""
    return columns.get(task.answers, columns["prediction"])


def able(task: LightningModule, what: str, *names: str) -> Any:
    """The task, if it has what these names say beyond Lightning's methods.

    Raises:
        InputError: naming what it lacks.
    """
    from lightning.pytorch import LightningModule

    def lacks(name: str) -> bool:
        return not hasattr(task, name) or getattr(type(task), name, task) is getattr(LightningModule, name, None)

    missing = [name for name in names if lacks(name)]
    if missing:
        raise InputError(f"task: {type(task).__name__} cannot {what}: it lacks {', '.join(missing)}; docs/add-a-task.md "
                         f"tells what they are")  # fmt: skip
    return task


def eager(task: LightningModule) -> Any:
    """A context in which a compiled net runs as it is written: a batch of another size would have it compiled anew."""
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in task.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spaced: a split is in its source's order."""
    return [i * (count - 1) // max(1, min(most, count) - 1) for i in range(min(most, count))]
