"""The parts of an export: a module, samples to compare its files on, and their metadata."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import tomllib
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from PIL import Image
from torch import Tensor, nn

from src.kindling.analysis.outputs import Outputs
from src.kindling.analysis.predictions import find_input
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError, join_names
from src.kindling.data.data_module import DataModule
from src.kindling.data.images.image_data import ImageFiles
from src.kindling.data.images.prepare import Preparation, steps_of
from src.kindling.data.samples import Stage
from src.kindling.nn.additions import outputs_of
from src.kindling.training.trained_run import TrainedRun

# Samples of the comparison, and the batch sizes in which the file gets them.
SAMPLES, BATCH_SIZES = 64, (1, 2, 7, 64)
PREPARED_SAMPLES = 16  # whose preparation without torch is compared with the run's
SET_INPUT = "set self.example_input_array to one tensor (B, …), all that forward needs"


class ExportModule(nn.Module):
    """From raw input `(B, *raw_shape)` to `predict_proba`, `(B, …)`; or the plain `forward`."""

    def __init__(self, run: TrainedRun, outputs: Outputs | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.preprocess = copy.deepcopy(run.preprocess) if outputs else nn.Identity()
        # channels_last is a choice of this machine.
        self.task = copy.deepcopy(run.task).to(memory_format=torch.contiguous_format)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.task(self.preprocess(x))
        return self.outputs.predict_proba(y) if self.outputs else y


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A module to export, with the samples that its files are compared on."""

    module: nn.Module  # from an input `(B, …)` to an output `(B, …)`
    x: Tensor  # the samples, `(N, …)`
    expected: Tensor  # the run's output for them, `(N, …)`
    facts: dict[str, Any]  # metadata; the input's first axis is `batch` where any size is taken
    outputs: Outputs | None  # of the task; None where only `forward` is exported

    @property
    def is_dynamic(self) -> bool:
        return bool(self.facts["input"]["shape"][0] == "batch")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes of the comparison."""
        return BATCH_SIZES if self.is_dynamic else (len(self.x),)

    @property
    def example(self) -> Tensor:
        """A batch to trace: of two samples, since a batch size of one would become a constant."""
        return self.x[:2] if self.is_dynamic else self.x


def build_models(run: TrainedRun, data: LightningDataModule | None, form: str) -> list[Exportable]:
    """Build the run's model; of a plain `forward` also one of a fixed batch size, as a fallback."""
    outputs: Outputs | None = outputs_of(run.task)
    if isinstance(data, DataModule) and outputs is not None:
        x = read_samples(data, "test" if len(data.indices["test"]) else "val", SAMPLES)
        with torch.inference_mode():
            expected = outputs.predict_proba(run.task(run.preprocess(x)))
        model = _describe(run, x, expected, "batch", outputs)
        spec = run.require_spec("export")
        model.facts["output"]["names"] = list(spec.names)
        model.facts["decision"] = outputs.decision
        model.facts["classes"] = spec.classes
        model.facts["spec"] = dataclasses.asdict(spec)
        model.facts["prepare"] = describe_preparation(data, form)
        return [model]
    if not is_overridden("forward", run.task):
        raise _refusal(run, "define forward, from an input tensor (B, …) to an output tensor")
    needed = [
        name
        for name, one in inspect.signature(run.task.forward).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        remedy = "an export takes one tensor (B, …); join them, or give the others defaults"
        raise _refusal(run, f"forward takes {join_names(needed)}; {remedy}")
    x = _find_input(run, data)
    fixed = _describe(run, x, _call_forward(run, x), len(x), None)
    try:
        x = x[torch.arange(SAMPLES) % len(x)]
        return [_describe(run, x, _call_forward(run, x), "batch", None), fixed]
    except InputError:  # forward takes only its own batch size
        return [fixed]


def _describe(
    run: TrainedRun, x: Tensor, expected: Tensor, size: int | str, outputs: Outputs | None
) -> Exportable:
    # The installed package has the name of the project that was made from the template.
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    engine = pyproject["project"]["version"]
    facts: dict[str, Any] = {"kindling": engine, "run": f"{run.path.parent.name}/{run.path.name}"}
    answer_name = "output" if outputs is None else outputs.answer_name
    for key, name, tensor in (("input", "input", x), ("output", answer_name, expected)):
        first = size if len(tensor) == len(x) else len(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        facts[key] = {"name": name, "type": dtype, "shape": [first, *tensor.shape[1:]]}
    return Exportable(ExportModule(run, outputs), x, expected, facts, outputs)


def _refusal(run: TrainedRun, problem: str) -> InputError:
    return InputError(f"task: {type(run.task).__name__} cannot be exported: {problem}")


def _call_forward(run: TrainedRun, x: Tensor) -> Tensor:
    try:
        with torch.inference_mode():
            expected = run.task(x)
    except Exception as error:  # the user's forward
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        problem = f"forward fails on an input {tuple(x.shape)}: {reason}; {SET_INPUT}"
        raise _refusal(run, problem) from error
    if not isinstance(expected, Tensor) or expected.ndim == 0:
        kind = type(expected).__name__
        raise _refusal(run, f"its forward returns a {kind}; return one tensor (B, …)")
    return expected


def _find_input(run: TrainedRun, data: LightningDataModule | None) -> Tensor:
    task = run.build_task(data)  # its setup may replace layers, which the run's task has to keep
    problem, x = "", None
    try:
        (task if data is None else data).prepare_data()
        if data is None:
            task.setup("fit")
        x = find_input(task, data)
    except Exception as error:  # the loaders of the user
        problem = f" (its loader failed: {type(error).__name__}: {error})".splitlines()[0]
    if x is None:
        raise _refusal(run, f"no input tensor found{problem}; {SET_INPUT}")
    return x.detach().cpu()


def read_samples(data: DataModule, stage: Stage, count: int) -> Tensor:
    """Read raw samples of a split as a test does, `(count, *raw_shape)`; a small split repeats."""
    index = data.indices[stage]
    spread = torch.linspace(0, len(index) - 1, count).long()
    x, _ = data.datasets["test"][(0, 0, index[spread])]
    return x


def describe_preparation(data: DataModule, form: str) -> dict[str, Any] | None:
    """Describe how an image file becomes raw input without torch; None without images."""
    if data.spec.kind != "image" or form != "onnx":
        return None
    shape: Any = data.spec.source_shape
    channels, height, width = shape
    if channels not in (1, 3) or height != width:
        return None
    images: Any = data.datasets["test"].samples.x
    mode: Any = getattr(data, "resize_mode", "crop")
    whole, steps = getattr(images, "own_size", False), steps_of(data.transforms["test"] or ())
    prepare = Preparation(channels, height, mode, whole, data.spec.max_value, steps)
    index = data.indices["test" if len(data.indices["test"]) else "val"]
    for i in index[:PREPARED_SAMPLES].tolist():
        try:
            own = data.datasets["test"][(0, 0, torch.tensor([i]))][0][0].numpy()
        except InputError:  # an image that the run skips
            continue
        prepared = prepare(_open_image(data, i))
        if problem := _difference(prepared, own):
            raise InputError(
                "data.eval_transforms: a test sample prepared without torch differs from the run's "
                f"own {problem}; export with --format pt2"
            )
    return dataclasses.asdict(prepare)


def _difference(prepared: Any, own: Any) -> str:
    if prepared.shape != own.shape:
        return f"in shape: {prepared.shape}, not {own.shape}"
    difference = np.abs(prepared.astype(float) - own).max()
    # Pillow and torch resize alike up to rounding to one of an image file's 255 levels.
    level = 1.01 * max(float(np.abs(own).max()), 1e-3) / 255
    allowed = 1 if own.dtype == np.uint8 else level
    return "" if difference <= allowed else f"by up to {difference:.3g}"


def _open_image(data: DataModule, i: int) -> Image.Image:
    """A test sample as an image in memory."""
    images: Any = data.datasets["test"].samples.x
    if isinstance(images, ImageFiles):
        return Image.open(images.paths.path(i))
    levels = images[torch.tensor([i])][0].numpy() * (255 / data.spec.max_value)
    pixels = np.rint(levels).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
