"""Export a run's model, and compare the file in a fresh process with the run.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8]

With Kindling's data and a task with `outputs`, the file takes raw input, as the task does, and
returns `probability` for classes or `value` in the target's unit. It contains the input's
preparation, and as metadata the class names, the spec, and for images the steps from an image file
to raw input. Of any other LightningModule, the plain `forward` is exported.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.kindling.config.errors import InputError
from src.kindling.deploy.export_files import FILES, NEEDED, WRITERS, compare_int8, prove, quantize
from src.kindling.deploy.export_model import Exportable, build_models, read_samples
from src.kindling.nn.additions import net_of
from src.kindling.runs.files import write_json
from src.kindling.training.trained_run import TrainedRun
from src.kindling.training.warning_filters import quiet

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
        from the run, the share of equal decisions, mean milliseconds of each batch size; for int8
        the score (accuracy or MAE) on the test set before and after.

    Raises:
        InputError: when a package is missing, the net cannot be exported, or a file's outputs
            differ from the run's; no file is left then.
    """
    if int8 and form != "onnx":
        raise InputError(f"--int8: is made from ONNX; leave out --format {form}")
    if missing := [name for name in NEEDED if form == "onnx" and find_spec(name) is None]:
        remedy = "install the extra: pip install -e '.[export]'"
        raise InputError(f"--format onnx needs {', '.join(missing)}; {remedy}")
    quiet()
    data = run.data()
    *preferred, last = build_models(run, data, form)
    if int8 and last.outputs is None:
        needed = "needs a Kindling DataModule and a task with outputs"
        raise InputError(f"--int8: {needed}; leave out --int8")
    for model in preferred:
        with suppress(InputError):
            return _write_and_prove(run, data, model, form, int8)
    return _write_and_prove(run, data, last, form, int8)


def _write_and_prove(
    run: TrainedRun, data: Any, model: Exportable, form: str, int8: bool
) -> Reports:
    facts = {name: model.facts[name] for name in ("run", "kindling", "input", "output")}
    reports = {}
    with (
        tempfile.TemporaryDirectory(prefix=".export", dir=run.path) as scratch,
        warnings.catch_warnings(),
    ):
        # The command itself prints that torchscript is deprecated.
        warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated")
        files = {name: Path(scratch) / FILES[name] for name in (form, "int8")[: 1 + int8]}
        try:
            WRITERS[form](model, files[form])
            if int8:
                x = read_samples(data, "train", CALIBRATION_SAMPLES)
                quantize(files["onnx"], files["int8"], x)
        except Exception as error:
            name = type(net_of(run.task)).__name__
            cause = error.__cause__ or error  # of torch.export, behind advice of the ONNX exporter
            reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
            remedy = "" if form == "torchscript" else "; try --format torchscript"
            raise InputError(f"{name} cannot be exported as {form}: {reason}{remedy}") from error
        for name, file in files.items():
            reports[name] = facts | prove(name, file, model)
        if int8:
            reports["int8"] |= compare_int8(data, model.outputs, files["onnx"], files["int8"])
        folder = run.path / "export"
        folder.mkdir(exist_ok=True)
        for name, report in reports.items():
            os.replace(files[name], folder / FILES[name])
            write_json(folder / f"{name}.json", report)
    return reports
