"""Predict a split: the columns of a task's `predict_step`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from src.kindling.analysis.prediction_columns import Array, Predictions
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.loader import make_loader
from src.kindling.data.order import BatchOrder
from src.kindling.data.preprocess import InputStats
from src.kindling.data.samples import Stage
from src.kindling.nn.additions import outputs_of

__all__ = ["Array", "Predictions"]

SAMPLES = 64  # of a batch that shows what `forward` takes


def predict(
    task: LightningModule,
    data: LightningDataModule | None,
    stage: Stage,
    limit: int | None = None,
) -> Predictions:
    """Predict one split without a Trainer, on the task's device; the task is not changed.

    Every sample comes once and without random transforms. Data with groups add the column `group`;
    a `predict_step` can return it for other data. Raises InputError without a `predict_step`.

    Args:
        task: its `predict_step` returns named columns `(B, …)` for a batch.
        data: after `setup`; None if the task defines its loaders itself.
        stage: the split.
        limit: number of samples: evenly spaced from Kindling's data, else the first.
    """
    require_columns(task, "predict")
    parts: dict[str, list[Array]] = defaultdict(list)
    count, scored = 0, ""
    with evaluating(task), nullcontext() if limit is None else eager(task):
        for number, (batch, index) in enumerate(read_batches(task, data, stage, limit)):
            columns = predict_batch(task, batch, number)
            check_columns(task, columns)
            scores, scored = score_of(task, columns)
            columns |= scores
            for name, value in columns.items():
                if value.is_floating_point() and value.itemsize < 4:  # numpy has no bfloat16
                    value = value.float()
                parts[name].append(value.cpu().numpy())
            size = len(next(iter(columns.values())))
            numbers = torch.arange(count, count + size) if index is None else index
            parts["index"].append(numbers.numpy())
            count += size
            if limit is not None and count >= limit:
                break
    found = {name: np.concatenate(values) for name, values in parts.items()}
    found.setdefault("index", np.empty(0, np.int64))
    if not isinstance(data, DataModule):
        return Predictions(found, None, stage, None, scored)
    if data.samples.groups is not None:
        found["group"] = data.samples.groups.numpy()[found["index"]]
    return Predictions(found, data.spec, stage, data.samples, scored)


def read_batches(
    task: LightningModule, data: LightningDataModule | None, stage: Stage, limit: int | None = None
) -> Iterator[tuple[Any, Tensor | None]]:
    """Yield the batches of a split on the task's device, and their sample numbers if known."""
    if not isinstance(data, DataModule):
        name = f"{stage}_dataloader"
        owner: Any = data if data is not None and is_overridden(name, data) else task
        if data is not None:
            data.setup("test" if stage == "test" else "fit")  # validation data as in `Trainer.fit`
        loaders = getattr(owner, name)() if is_overridden(name, owner) else []
        if not isinstance(loaders, CombinedLoader):
            loaders = CombinedLoader(loaders, "sequential")
        for batch in chain.from_iterable(loaders.flattened):
            yield transfer(task, data, batch), None
        return
    stats = getattr(getattr(task, "net", None), "input_stats", None)
    if isinstance(stats, InputStats):  # which data that did not train this task lack
        data.use_input_stats(stats)
    index = data.indices[stage]
    if limit is not None:
        index = index[spread(len(index), limit)]
    order = BatchOrder(index, data.batch_size, None)
    workers = data.num_workers if limit is None else 0
    dataset = data.datasets["test" if stage == "train" else stage]
    for number, (x, y) in enumerate(make_loader(dataset, order, workers)):
        numbers = order.numbers(0, number)
        x, y = data.prepare(x, y.to(task.device))
        yield (x.to(task.dtype) if x.is_floating_point() else x, y), numbers


def find_input(task: LightningModule, data: LightningDataModule | None) -> Tensor | None:
    """Find the first tensor of the `example_input_array`, or else of a first batch, `(B, …)`."""
    x: Any = task.example_input_array
    stages: tuple[Stage, ...] = ("val", "test", "train")
    batches = chain.from_iterable(read_batches(task, data, stage, SAMPLES) for stage in stages)
    if x is None:
        x, _ = next(batches, (None, None))
    if isinstance(x, tuple | list) and x:
        x = x[0]
    return x if isinstance(x, Tensor) and x.ndim and len(x) else None


def transfer(task: LightningModule, data: LightningDataModule | None, batch: Any) -> Any:
    """Move a batch to the task's device, through the hooks of the data or else of the task."""
    owners = [owner for owner in (data, task) if owner is not None]

    def hook(name: str) -> Any:
        overriding = [owner for owner in owners if is_overridden(name, owner)]
        return getattr((overriding or owners)[0], name)

    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, task.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


def predict_batch(task: LightningModule, batch: Any, number: int) -> dict[str, Tensor]:
    """Call a task's `predict_step`; raise InputError if it returns no tensors by name."""
    step = task.predict_step
    takes_number = is_param_in_hook_signature(step, "batch_idx", min_args=2)
    found: Any = step(batch, number) if takes_number else step(batch)
    values = found.values() if isinstance(found, dict) else ()
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise InputError(
            f"task: predict_step of {type(task).__name__} returns a {type(found).__name__}; let it "
            'return tensors by name: {"prediction": …, "target": …} (docs/how-to/add-a-task.md)'
        )
    return {name: value for name, value in found.items() if name != "index"}


def check_columns(task: LightningModule, columns: Mapping[str, Tensor]) -> None:
    """Raise InputError if `predict_step` returns other columns than the task's `outputs` need."""
    outputs = outputs_of(task)
    if outputs is None:
        return
    needed = dict.fromkeys(("target", "prediction", outputs.column))
    shapes = {name: tuple(columns[name].shape) for name in needed if name in columns}
    kind, problem = type(outputs).__name__, ""
    if missing := [repr(name) for name in needed if name not in shapes]:
        problem = f"no {' and no '.join(missing)}, which {kind} needs"
    elif shapes["prediction"] != shapes["target"]:
        problem = f"'prediction' {shapes['prediction']} for 'target' {shapes['target']}"
    elif shapes.get("probability", ())[1:] not in ((), outputs.shape):
        problem = (
            f"'probability' {shapes['probability']}, and {kind} needs (B, {len(outputs.names)})"
        )
    if problem:
        raise InputError(
            f"task: predict_step of {type(task).__name__} returns {problem}; return "
            '{"target": y, **self.outputs.columns(raw)} from predict_step '
            "(docs/how-to/add-a-task.md)"
        )


def score_of(task: LightningModule, columns: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Compute the column `score` `(B,)`, and the score's name; neither without a target.

    By the task's `outputs`; without them, accuracy for integers, else the absolute error.
    """
    outputs = outputs_of(task)
    target, prediction = columns.get("target"), columns.get("prediction")
    if target is None:
        return {}, ""
    if outputs is not None and outputs.column in columns:
        return {"score": outputs.score(columns[outputs.column], target)}, outputs.score_name
    if prediction is None or prediction.shape != target.shape:
        return {}, ""
    if prediction.is_floating_point() or target.is_floating_point():
        error = (prediction - target).abs().reshape(len(target), -1)
        return {"score": error.mean(dim=1)}, "mae"
    right = (prediction == target).reshape(len(target), -1).all(dim=1)
    return {"score": right.float()}, "accuracy"


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
    """Raise InputError if a task does not define `predict_step`."""
    if not is_overridden("predict_step", task):
        name = type(task).__name__
        raise InputError(
            f"task: {name} cannot {what}: add a predict_step that returns named columns, "
            '{"prediction": …, "target": …} (docs/how-to/add-a-task.md)'
        )


def eager(task: LightningModule) -> Any:
    """Let a compiled net run uncompiled: another batch size would recompile it."""
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in task.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def spread(count: int, most: int) -> list[int]:
    """Choose at most `most` evenly spaced numbers below `count`: splits keep the source's order."""
    return [i * (count - 1) // max(1, min(most, count) - 1) for i in range(min(most, count))]
