"""A task's predictions for a split: the columns of its `predict_step`, in memory or in a file.

predictions = predict(run.task, run.data(), "test")
predictions["probability"]                            # (N, classes), as predict_step names it
predictions.name(0), predictions.inputs([0, 1, 2])    # the samples behind the rows
run.task.outputs.plot(predictions)                    # its plots, by name
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.loader import Loader, as_it_is
from src.kindling.data.order import BatchOrder
from src.kindling.data.samples import Samples, Stage, take
from src.kindling.data.spec import Spec

Array = np.ndarray[Any, Any]


class Predictions:
    """Named columns of numbers with a row for each sample of a split.

    Args:
        columns: by name, each `(N, …)`; `index` `(N,)` holds the samples' numbers in the source.
        spec: of the data; None for data from elsewhere.
        stage: the split.
        samples: the source, for `inputs` and `name`; None if only the columns are loaded.
        scored: the metric in the column `score` `(N,)`: `accuracy` (0 or 1), say; empty without
            that column.
    """

    def __init__(
        self,
        columns: dict[str, Array],
        spec: Spec | None,
        stage: Stage,
        samples: Samples | None = None,
        scored: str = "",
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
        """The path of a row's sample, or its row in the table; else its number."""
        index = int(self["index"][row])
        return self.samples.name(index) if self.samples else str(index)

    def save(self, path: Path) -> None:
        """Write the columns, the spec and the stage as .npz; the file is complete or absent."""
        spec = dataclasses.asdict(self.spec) if self.spec else {}
        about = json.dumps({"stage": self.stage, "spec": spec, "scored": self.scored})
        arrays: dict[str, Any] = {"about.json": np.array(about), **self.columns}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path, data: LightningDataModule | None = None) -> Predictions:
        """Read a file of `save`; pass the run's `data` for `inputs` and `name`.

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
        spec = Spec.from_plain(about["spec"]) if about["spec"] else None
        samples = data.samples if isinstance(data, DataModule) else None
        return cls(columns, spec, about["stage"], samples, about.get("scored", ""))


def predict(
    task: LightningModule,
    data: LightningDataModule | None,
    stage: Stage,
    limit: int | None = None,
) -> Predictions:
    """Predict one split without a Trainer, on the task's device; the task is not changed.

    Every sample comes once and without random transforms, also in the training split.

    Args:
        task: its `predict_step` returns named columns `(B, …)` for a batch.
        data: after `setup`; None if the task defines its loaders itself.
        stage: the split.
        limit: number of samples: evenly spaced from Kindling's data, else the first.

    Raises:
        InputError: when `predict_step` is missing or returns something else.
    """
    require_columns(task, "predict")
    parts: dict[str, list[Array]] = defaultdict(list)
    rows, score_name = 0, ""
    with evaluating(task), nullcontext() if limit is None else eager(task):
        for number, (batch, index) in enumerate(_batches(task, data, stage, limit)):
            columns = predict_batch(task, batch, number)
            score, score_name = score_of(task, columns)
            if score is not None:
                columns["score"] = score
            for name, value in columns.items():
                value = value.float() if value.is_floating_point() else value
                parts[name].append(value.cpu().numpy())
            size = len(next(iter(columns.values())))
            parts["index"].append(np.arange(rows, rows + size) if index is None else index.numpy())
            rows += size
            if limit is not None and rows >= limit:
                break
    found = {name: np.concatenate(values) for name, values in parts.items()}
    found.setdefault("index", np.empty(0, np.int64))
    if not isinstance(data, DataModule):
        return Predictions(found, None, stage, None, score_name)
    return Predictions(found, data.spec, stage, data.samples, score_name)


def _batches(
    task: LightningModule, data: LightningDataModule | None, stage: Stage, limit: int | None
) -> Iterator[tuple[Any, Tensor | None]]:
    """The batches of a split on the task's device, and their sample numbers."""
    if not isinstance(data, DataModule):
        name = f"{stage}_dataloader"
        owner: Any = data if data is not None and is_overridden(name, data) else task
        if data is not None:
            data.setup({"train": "fit", "val": "validate", "test": "test"}[stage])
        for batch in getattr(owner, name)():
            yield transfer(task, data, batch), None
        return
    index = data.indices[stage]
    if limit is not None:
        index = index[spread(len(index), limit)]
    order = BatchOrder(index, data.batch_size, None)
    workers = data.num_workers if limit is None else 0
    dataset = data.datasets["test" if stage == "train" else stage]
    loader = Loader(
        dataset,
        sampler=order,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=workers,
        generator=torch.Generator(),
    )
    unreadable = getattr(data.samples.x, "unreadable", None)
    for number, (x, y) in enumerate(loader):
        numbers = order.numbers(0, number)
        if unreadable is not None:
            numbers = numbers[~unreadable[numbers]]
        x, y = data.prepare(x.to(task.device), y.to(task.device))
        yield (x.to(task.dtype) if x.is_floating_point() else x, y), numbers


def transfer(task: LightningModule, data: LightningDataModule | None, batch: Any) -> Any:
    """A batch on the task's device, through the hooks of the data or else of the task."""
    owners = [owner for owner in (data, task) if owner is not None]

    def hook(name: str) -> Any:
        overriding = [owner for owner in owners if is_overridden(name, owner)]
        return getattr((overriding or owners)[0], name)

    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, task.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


def predict_batch(task: LightningModule, batch: Any, number: int) -> dict[str, Tensor]:
    """The columns of a task's `predict_step`.

    Raises:
        InputError: when they are not tensors `(B, …)` by name.
    """
    step = task.predict_step
    takes_number = is_param_in_hook_signature(step, "batch_idx", min_args=2)
    found: Any = step(batch, number) if takes_number else step(batch)
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(v, Tensor) for v in found.values())
    ):
        raise InputError(
            f"task: predict_step of {type(task).__name__} returns a {type(found).__name__}; let it "
            'return tensors by name: {"prediction": …, "target": …} (docs/add-a-task.md)'
        )
    return {name: value for name, value in found.items() if name != "index"}


def score_of(task: LightningModule, columns: Mapping[str, Tensor]) -> tuple[Tensor | None, str]:
    """Score each prediction `(B,)`, and name the score.

    By the task's `outputs`; without them, accuracy for integers, else the absolute error.
    """
    outputs: Any = getattr(task, "outputs", None)
    target, prediction = columns.get("target"), columns.get("prediction")
    if target is None:
        return None, ""
    if outputs is not None and outputs.column in columns:
        return outputs.score(columns[outputs.column], target), outputs.score_name
    if prediction is None or prediction.shape != target.shape:
        return None, ""
    if prediction.is_floating_point() or target.is_floating_point():
        error = (prediction - target).abs().reshape(len(target), -1)
        return error.mean(dim=1), "mae"
    return (prediction == target).reshape(len(target), -1).all(dim=1).float(), "accuracy"


@contextmanager
def evaluating(task: LightningModule) -> Iterator[None]:
    """Put a task into eval mode without gradients, and back."""
    modes = [(module, module.training) for module in task.modules()]
    task.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def require_columns(task: LightningModule, what: str) -> None:
    """Check that a task defines `predict_step`.

    Raises:
        InputError: when it does not.
    """
    if not is_overridden("predict_step", task):
        name = type(task).__name__
        raise InputError(
            f"task: {name} cannot {what}: add a predict_step that returns named columns, "
            '{"prediction": …, "target": …} (docs/add-a-task.md)'
        )


def eager(task: LightningModule) -> Any:
    """A context in which a compiled net runs uncompiled: another batch size would recompile it."""
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in task.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced numbers below `count`: splits keep their source's order."""
    return [i * (count - 1) // max(1, min(most, count) - 1) for i in range(min(most, count))]
