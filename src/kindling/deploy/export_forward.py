"""The plain `forward` of any LightningModule as a model to export."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from src.kindling.analysis.predictions import transfer
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.deploy.export_formats import Exportable
from src.kindling.deploy.export_proof import BATCH_SIZES, SAMPLES
from src.kindling.training.trained_run import TrainedRun

# As in `Trainer.fit`, validation data comes from `setup("fit")`.
SETUP_STAGES: dict[Stage, str] = {"val": "fit", "test": "test", "train": "fit"}


def build_forward(
    run: TrainedRun, data: LightningDataModule | None, module: nn.Module, facts: dict[str, Any]
) -> list[Exportable]:
    """Describe a module's `forward`: for batches of any size, and for the example's size.

    Args:
        run: its task's `example_input_array` is the input, or else the first tensor of a batch.
        data: of the run; None if the task defines its loaders itself.
        module: calls the task.
        facts: of the run, for the file's metadata.

    Raises:
        InputError: without a `forward` that takes and returns one tensor, or without an input.
    """
    name = type(run.task).__name__
    if not is_overridden("forward", run.task):
        raise InputError(
            f"task: {name} cannot be exported: define forward, from an input tensor (B, …) to an "
            "output tensor"
        )
    x = find_input(run, data)
    size = len(x)
    fixed = _describe(run.task, module, x, facts, size)
    try:
        samples = x[torch.arange(SAMPLES) % size]
        return [_describe(run.task, module, samples, facts, "batch"), fixed]
    except InputError:  # forward takes only its own batch size
        return [fixed]


def find_input(run: TrainedRun, data: LightningDataModule | None) -> Tensor:
    """The `example_input_array`, or else the first tensor of a first batch, `(B, …)`.

    Raises:
        InputError: naming `example_input_array`, when neither is one tensor.
    """
    x: Any = run.task.example_input_array
    problem = ""
    if x is None:
        try:
            x = read_first_batch(run, data)
        except Exception as error:  # the loaders of the user
            problem = f" (its loader failed: {type(error).__name__}: {error})".splitlines()[0]
    if isinstance(x, tuple | list) and x:
        x = x[0]
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        raise InputError(
            f"task: {type(run.task).__name__} cannot be exported: no input tensor found{problem}; "
            "set self.example_input_array to a tensor (B, …) that forward takes"
        )
    return x.detach().cpu()


def read_first_batch(run: TrainedRun, data: LightningDataModule | None) -> Any:
    """A first batch of the validation, test or training loader; None where there is none."""
    if isinstance(data, DataModule):
        stage = next(stage for stage in SETUP_STAGES if len(data.indices[stage]))
        x, _ = next(iter(data.loader(stage)))
        return run.preprocess(x)
    task = run.build_task()  # its setup may replace layers, which the run's task has to keep
    for stage, setup_stage in SETUP_STAGES.items():
        name = f"{stage}_dataloader"
        for owner in (data, task):
            if owner is not None and is_overridden(name, owner):
                owner.prepare_data()
                owner.setup(setup_stage)
                loaders = getattr(owner, name)()
                if not isinstance(loaders, CombinedLoader):
                    loaders = CombinedLoader(loaders, "sequential")
                return transfer(task, data, next(iter(loaders.flattened[0]), None))
    return None


def _describe(
    task: LightningModule, module: nn.Module, x: Tensor, facts: dict[str, Any], size: int | str
) -> Exportable:
    name = type(task).__name__
    try:
        with torch.inference_mode():
            expected = task(x)
    except Exception as error:  # the user's forward
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"task: {name} cannot be exported: forward fails on an input {tuple(x.shape)}: "
            f"{reason}; set self.example_input_array to a tensor (B, …) that forward takes"
        ) from error
    if not isinstance(expected, Tensor) or expected.ndim == 0:
        raise InputError(
            f"task: {name} cannot be exported: its forward returns a {type(expected).__name__}; "
            "return one tensor (B, …)"
        )
    facts = facts | {
        "input": {"name": "input", "type": dtype_name(x), "shape": [size, *x.shape[1:]]},
        "output": {
            "name": "output",
            "type": dtype_name(expected),
            "shape": [size if len(expected) == len(x) else len(expected), *expected.shape[1:]],
        },
    }
    sizes = BATCH_SIZES if isinstance(size, str) else (size,)
    return Exportable(module, x, expected, facts, None, sizes)


def dtype_name(x: Tensor) -> str:
    """`float32` of `torch.float32`."""
    return str(x.dtype).removeprefix("torch.")
