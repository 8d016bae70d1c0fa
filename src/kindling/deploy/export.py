"""Export a run's model, and compare the file in a fresh process with the run.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8]

With Kindling's data and a task with `outputs`, the file takes raw input, as the task does, and
returns `probability` for classes or `value` in the target's unit. It contains the input's
preparation, and as metadata the class names, the spec, and for images the steps from an image file
to raw input. Of any other LightningModule, the plain `forward` is exported.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError
from src.kindling.deploy.export_formats import FILES, NEEDED, WRITERS, Exportable, quantize
from src.kindling.deploy.export_prepare import describe_preparation
from src.kindling.deploy.export_proof import BATCH_SIZES, SAMPLES, compare_int8, prove
from src.kindling.runs.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from src.kindling.data.data_module import DataModule
    from src.kindling.training.trained_run import TrainedRun

    Reports = dict[str, dict[str, Any]]

CALIBRATION_SAMPLES = 512  # training samples for the ranges of int8 activations


def export(run: TrainedRun, form: str = "onnx", int8: bool = False) -> Reports:
    """Export a run into its export/ folder, and compare each file with the run.

    Args:
        run: its checkpoint is used; its data gives the samples of the comparison.
        form: `onnx`, `pt2` or `torchscript`. Each takes batches of any size; a plain `forward` that
            cannot is exported with the batch size of its example.
        int8: make a second ONNX file with 8-bit convolutions and linear layers.

    Returns:
        For each file the content of export/<form>.json: its name and bytes, the largest difference
        from the run, the share of equal decisions, median milliseconds of each batch size; for int8
        the score (accuracy or MAE) on the test set before and after.

    Raises:
        InputError: when a package is missing, the net cannot be exported, or a file's outputs
            differ from the run's; no file is left then.
    """
    from src.kindling.training.warning_filters import quiet

    if int8 and form != "onnx":
        raise InputError(f"--int8: is made from ONNX; leave out --format {form}")
    if missing := [name for name in NEEDED if form == "onnx" and find_spec(name) is None]:
        raise InputError(
            f"--format onnx needs {', '.join(missing)}; install the extra: "
            "pip install -e '.[export]'"
        )
    quiet()
    data = run.data()
    models = build_models(run, data, form, int8)
    folder = run.path / "export"
    folder.mkdir(exist_ok=True)
    try:
        for number, model in enumerate(models, 1):
            try:
                return _write_and_prove(run, data, model, form, int8)
            except InputError:
                if number == len(models):
                    raise
    finally:
        with suppress(OSError):  # the folder holds files of this or an earlier export
            folder.rmdir()
    raise AssertionError("no model to export")


def build_models(run: TrainedRun, data: Any, form: str, int8: bool) -> list[Exportable]:
    """The run's model; of a plain `forward` also one with a fixed batch size, as a fallback."""
    from src.kindling.data.data_module import DataModule
    from src.kindling.deploy.export_forward import build_forward

    if isinstance(data, DataModule) and getattr(run.task, "outputs", None) is not None:
        return [_build_answer(run, data, form)]
    if int8:
        raise InputError(
            "--int8: needs a Kindling DataModule and a task with outputs; leave out --int8"
        )
    return build_forward(run, data, wrapped_forward(run), run_facts(run))


def _write_and_prove(
    run: TrainedRun, data: Any, model: Exportable, form: str, int8: bool
) -> Reports:
    folder = run.path / "export"
    names = (form, "int8") if int8 else (form,)
    facts = {name: model.facts[name] for name in ("run", "kindling", "input", "output")}
    with tempfile.TemporaryDirectory(dir=folder) as scratch, warnings.catch_warnings():
        # The command itself says that torchscript is deprecated.
        warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated")
        made = {name: Path(scratch) / FILES[name] for name in names}
        try:
            # Two samples: a batch size of one would become a constant.
            x = model.x[:2] if len(model.batch_sizes) > 1 else model.x
            WRITERS[form](model.module, x, made[form], model.facts)
            if int8:
                quantize(made["onnx"], made["int8"], samples(data, "train", CALIBRATION_SAMPLES))
        except Exception as error:
            name = type(getattr(run.task, "net", run.task)).__name__
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{name} cannot be exported as {form}: {reason}") from error
        reports = {name: {**facts, **prove(name, made[name], model)} for name in names}
        if int8:
            reports["int8"] |= compare_int8(data, model.outputs, made["onnx"], made["int8"])
        for name, report in reports.items():
            os.replace(made[name], folder / FILES[name])
            write_json(folder / f"{name}.json", report)
    return reports


def _build_answer(run: TrainedRun, data: DataModule, form: str) -> Exportable:
    """From raw input to the task's probabilities or values."""
    import torch

    outputs: Any = run.task.outputs
    x = samples(data, "test" if len(data.indices["test"]) else "val", SAMPLES)
    with torch.inference_mode():
        expected = outputs.predict_proba(run.task(run.preprocess(x)))
    spec = run.require_spec("export")
    facts = run_facts(run) | {
        "input": {
            "name": "input",
            "type": str(x.dtype).removeprefix("torch."),
            "shape": ["batch", *x.shape[1:]],
        },
        "output": {
            "name": outputs.answer_name,
            "type": "float32",
            "shape": ["batch", *expected.shape[1:]],
            "names": list(spec.names),
        },
        "decision": outputs.decision,
        "classes": spec.classes,
        "spec": dataclasses.asdict(spec),
        "prepare": describe_preparation(data, form),
    }
    return Exportable(wrapped(run), x, expected, facts, outputs, BATCH_SIZES)


def wrapped(run: TrainedRun) -> nn.Module:
    """The exported module, from raw input `(B, *raw_shape)` to `predict_proba`, `(B, …)`."""
    import torch

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.preprocess = copy.deepcopy(run.preprocess)
            self.task = copy_task(run)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Any = self.task.outputs
            probability: Tensor = outputs.predict_proba(self.task(self.preprocess(x)))
            return probability

    return Answer().eval()


def wrapped_forward(run: TrainedRun) -> nn.Module:
    """The exported module of a plain `forward`."""
    import torch

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task = copy_task(run)

        def forward(self, x: Tensor) -> Any:
            return self.task(x)

    return Forward().eval()


def copy_task(run: TrainedRun) -> nn.Module:
    """The task without gradients, and without channels_last, which is a choice of this machine."""
    import torch

    task: nn.Module = copy.deepcopy(run.task).to(memory_format=torch.contiguous_format)
    return task.requires_grad_(False)


def samples(data: DataModule, stage: Any, count: int) -> Tensor:
    """Raw samples of a split as a test reads them, `(count, *raw_shape)`; a small split repeats."""
    import torch

    index = data.indices[stage]
    x, _ = data.datasets["test"][(0, 0, index[torch.linspace(0, len(index) - 1, count).long()])]
    return x


def run_facts(run: TrainedRun) -> dict[str, Any]:
    """The metadata of every file: its run, and the version of Kindling."""
    try:
        kindling = version("kindling")
    except PackageNotFoundError:  # cloned, and not installed
        kindling = "unknown"
    return {"kindling": kindling, "run": f"{run.path.parent.name}/{run.path.name}"}
