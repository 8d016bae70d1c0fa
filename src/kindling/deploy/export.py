"""Export a run's model for use elsewhere, and prove the file: loaded in a fresh process, it answers as the run does.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8]

The file takes raw input, as the task does, and gives `probability` for classes or `value` in the target's unit. What
prepares the input is inside, and so are, as metadata, the class names, the spec, and for pictures the steps that make raw
input of a file.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.runs.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from src.kindling.data.data_module import DataModule
    from src.kindling.data.spec import Spec
    from src.kindling.training.trained_run import TrainedRun

FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx", "pt2": "model.pt2", "torchscript": "model.torchscript.pt"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")
# The proof: so many test samples, in batches of each size. Probabilities may differ by so much from the run's own, and
# values by that share of the target's standard deviation; int8 is measured instead.
SAMPLES, BATCHES, TOLERANCE = 64, (1, 2, 7, 64), 1e-5
CALIBRATION = 512  # training samples that show int8 the range of the values within the net
# What the fresh process runs; its first argument is a module that it has to do without.
FRESH = (
    "import sys; sys.modules[sys.argv[1]] = None; from src.kindling.deploy.export import answer; answer(*sys.argv[2:])"
)


def export(run: TrainedRun, form: str = "onnx", int8: bool = False) -> dict[str, dict[str, Any]]:
    """Export a run into its export/ folder, and prove what was written.

    Args:
        run: its checkpoint is used; its data gives the samples of the proof.
        form: `onnx`, `pt2` or `torchscript`; each takes batches of any size.
        int8: make a second ONNX file, whose convolutions and linear layers compute with 8 bits.

    Returns:
        For each file what stands in export/<form>.json: its name and bytes, the largest difference from the run's own
        answers, the share of samples whose class agrees, median milliseconds of each batch size; for int8 the accuracy
        (or MAE) on the test set before and after.

    Raises:
        InputError: when a package is missing, the net cannot be exported, or a file does not answer as the run does;
            nothing is left behind then.
    """
    import torch

    from src.kindling.training.warning_filters import quiet

    if int8 and form != "onnx":
        raise InputError(f"--int8: is made from ONNX; leave out --format {form}")
    if missing := [name for name in NEEDED if form == "onnx" and find_spec(name) is None]:
        raise InputError(f"--format onnx needs {', '.join(missing)}; install the extra: pip install -e '.[export]'")
    quiet()
    data = run.data()
    x = _samples(data, "test" if len(data.indices["test"]) else "val", SAMPLES)
    with torch.inference_mode():
        expected = _task(run).answer(x)
    facts = _facts(run, x, expected) | {"prepare": _prepared(data, form)}
    folder = run.path / "export"
    folder.mkdir(exist_ok=True)
    reports: dict[str, dict[str, Any]] = {}
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated")  # the command says so itself
            made = {name: Path(scratch) / file for name, file in FILES.items()}
            try:
                WRITERS[form](wrapped(run), x[:2], made[form], facts)  # of two: one would be taken for a constant
                if int8:
                    _quantize(made["onnx"], made["int8"], _samples(data, "train", CALIBRATION))
            except Exception as error:
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise InputError(f"{type(run.task.net).__name__} cannot be exported as {form}: {reason}") from error
            of = {name: facts[name] for name in ("run", "kindling", "input", "output")}
            for name in (form, "int8") if int8 else (form,):
                reports[name] = {**of, **prove(name, made[name], x, expected, _task(run))}
            if int8:
                reports["int8"] |= _measured(data, _task(run), made["onnx"], made["int8"])
            for name, report in reports.items():
                os.replace(made[name], folder / FILES[name])
                write_json(folder / f"{name}.json", report)
    finally:
        with suppress(OSError):  # files of this or an earlier export lie there
            folder.rmdir()
    return reports


def wrapped(run: TrainedRun) -> nn.Module:
    """What is exported: a module from raw input `(B, *raw_shape)` to the task's answer `(B, …)`."""
    import torch

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # channels_last is this machine's way of computing, and no part of the model.
            self.task = copy.deepcopy(run.task).to(memory_format=torch.contiguous_format).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.task.answer(x)  # type: ignore[operator]
            return answer

    return Answer().eval()


def _task(run: TrainedRun) -> Any:
    """The run's task, if it says what its answer is."""
    from src.kindling.analysis.predictions import able

    return able(run.task, "be exported", "answer", "answers", "decide", "score", "scored")


def _samples(data: DataModule, stage: Any, count: int) -> Tensor:
    """Raw samples of a split as a test reads them, `(count, *raw_shape)`; a small split repeats."""
    import torch

    index = data.indices[stage]
    return data.datasets["test"][(0, 0, index[torch.linspace(0, len(index) - 1, count).long()])].x


def _facts(run: TrainedRun, x: Tensor, answer: Tensor) -> dict[str, Any]:
    """What somebody needs who has nothing but the file."""
    try:
        of = version("kindling")
    except PackageNotFoundError:  # cloned, and not installed
        of = "unknown"
    spec = run.spec
    return {
        "kindling": of,
        "run": f"{run.path.parent.name}/{run.path.name}",
        "input": {"name": "input", "type": str(x.dtype).removeprefix("torch."), "shape": ["batch", *x.shape[1:]]},
        "output": {
            "name": _task(run).answers,
            "type": "float32",
            "shape": ["batch", *answer.shape[1:]],
            "names": list(spec.names),
        },
        "classes": spec.classes,
        "spec": dataclasses.asdict(spec),
    }


def _prepared(data: DataModule, form: str) -> dict[str, Any] | None:
    """What makes raw input of a picture, proved on test samples; None where a picture is not what the model takes.

    Raises:
        InputError: for ONNX, when it cannot be done without torch, or comes to something else than the run's own.
    """
    import numpy as np
    from PIL import Image

    from src.kindling.data.images.image_data import ImageFiles
    from src.kindling.data.images.prepare import Preparation, steps_of

    if data.spec.kind != "image" or form != "onnx":
        return None
    channels, height, width = data.spec.source_shape
    if channels not in (1, 3) or height != width:
        return None
    transform, test = data.transforms["test"], data.datasets["test"].samples.x
    prepare = Preparation(channels, height, getattr(data, "fit", "crop"), getattr(test, "whole", False), data.spec.white,
                          steps_of(transform or ()))  # fmt: skip
    index = data.indices["test" if len(data.indices["test"]) else "val"]
    for i in index[: SAMPLES // 4].tolist():
        try:
            own = data.datasets["test"][(0, 0, index.new_tensor([i]))].x[0].numpy()
        except InputError:  # a picture that the run skips
            continue
        if isinstance(test, ImageFiles):
            with Image.open(test.paths.path(i)) as image:
                made = prepare(image)
        else:
            pixels = np.rint(test[index.new_tensor([i])][0].numpy() * (255 / data.spec.white)).astype(np.uint8)
            made = prepare(Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)))
        # Pillow and torch resize alike, but for the rounding of a level; a picture's file has 255 of them.
        allowed = 1 if own.dtype == np.uint8 else 1.01 * max(float(np.abs(own).max()), 1e-3) / 255
        if made.shape != own.shape or (difference := np.abs(made.astype(float) - own).max()) > allowed:
            told = (
                f"by up to {difference:.3g}" if made.shape == own.shape else f"in shape: {made.shape}, not {own.shape}"
            )
            raise InputError(f"data.test_transforms: a test sample prepared without torch differs from the run's own {told}; "
                             "export with --format pt2")  # fmt: skip
    return dataclasses.asdict(prepare)


# ---------------------------------------------------------------------------------------------------------------
# The formats


def _write_onnx(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    import torch

    program = torch.onnx.export(
        module, (x,), dynamic_shapes=({0: "batch"},), input_names=["input"], output_names=[facts["output"]["name"]],
        dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # the exporter's notes, with the paths of this machine
    texts = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}
    # onnxruntime's quantisation asks for what torch has done already: shapes inferred, constants folded.
    program.model.metadata_props.update(texts | {"onnx.quant.pre_process": "onnxruntime.quant"})
    program.save(path, external_data=False)


def _write_pt2(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    from torch.export import Dim, export, save

    program = export(module, (x,), dynamic_shapes=({0: Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    save(program, path, extra_files={"kindling.json": json.dumps(facts)})


def _write_torchscript(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    import torch

    jit: Any = torch.jit
    # Around a function, tracing asks nothing of Lightning's module but to compute.
    jit.save(jit.trace(lambda x: module(x), (x,)), str(path), _extra_files={"kindling.json": json.dumps(facts)})


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, dict[str, Any]], None]] = {
    "onnx": _write_onnx, "pt2": _write_pt2, "torchscript": _write_torchscript}  # fmt: skip


def _quantize(path: Path, small: Path, x: Tensor) -> None:
    """Convolutions and linear layers with 8 bits, their ranges from training samples `(N, *raw_shape)`."""
    import numpy as np
    from onnxruntime.quantization import QuantType, quantize_static

    batches = ({"input": batch} for batch in np.array_split(x.numpy(), max(1, len(x) // 64)))
    quantize_static(
        path, small, SimpleNamespace(get_next=lambda: next(batches, None)), per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"], activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        reduce_range=True,  # weights of 7 bits: processors without VNNI would overflow with 8
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# The proof


def prove(form: str, path: Path, x: Tensor, expected: Tensor, task: Any) -> dict[str, Any]:
    """Ask a file, in a fresh process, for raw samples `(N, *raw_shape)`, and compare with what the run's task answers.

    Raises:
        InputError: when the file cannot be loaded, or its answers are not those `expected`, `(N, …)`.
    """
    import numpy as np
    import torch

    asked, answered = path.with_name("asked.npy"), path.with_name("answered.npz")
    np.save(asked, x.numpy())
    in_fresh_process(form, path, asked, answered)
    with np.load(answered) as found:
        answers, milliseconds = found["answers"], found["milliseconds"].tolist()
    spec: Spec = task.spec
    scale = np.array(spec.target_std) if spec.target_std else 1.0
    decided = torch.stack([task.decide(torch.from_numpy(some)) for some in answers])
    difference = float(np.abs((answers - expected.numpy()) / scale).max())
    if not difference <= (TOLERANCE if form != "int8" else float("inf")):  # nor where it is no number
        unit = "" if spec.classes else " of the target's standard deviation"
        raise InputError(f"{FILES[form]}: not exported: its answers differ from the run's by up to {difference:.2g}{unit}, "
                         f"and {TOLERANCE:g} is allowed; the net may compute something at random, or keep a state")  # fmt: skip
    return {
        "file": FILES[form],
        "bytes": path.stat().st_size,
        "samples": len(x),
        "difference": difference,
        "agreement": float((decided == task.decide(expected)).double().mean()) if spec.classes else None,
        "milliseconds": {str(size): value for size, value in zip(BATCHES, milliseconds, strict=True)},
        "packages": {name: version(name) for name in ("torch", *NEEDED) if find_spec(name)},
    }


def in_fresh_process(form: str, path: Path, asked: Path, answered: Path) -> None:
    """Have `answer` called in a process of its own, for ONNX in one that cannot import torch."""
    without = "torch" if path.suffix == ".onnx" else "onnxruntime"
    words = [sys.executable, "-c", FRESH, without, form, *map(str, (path, asked, answered))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise InputError(f"{path.name}: not exported: a fresh process cannot use it: {reason}")


def answer(form: str, path: str, asked: str, answered: str) -> None:
    """In a fresh process: load a file and answer, with each batch size, and time it."""
    import numpy as np

    ask, x = _loaded(form, path), np.load(asked)
    answers, milliseconds = [], []
    for size in BATCHES:
        answers.append(np.concatenate([ask(x[start : start + size]) for start in range(0, len(x), size)]))
        times: list[float] = []
        until = time.perf_counter() + 0.3
        while not times or (time.perf_counter() < until and len(times) < 200):
            began = time.perf_counter()
            ask(x[:size])
            times.append(1000 * (time.perf_counter() - began))
        milliseconds.append(np.median(times))
    np.savez(answered, answers=np.stack(answers), milliseconds=milliseconds)


def _loaded(form: str, path: str) -> Callable[[Any], Any]:
    """The file's function of a batch `(B, *raw_shape)`, arrays in and out."""
    if FILES[form].endswith(".onnx"):
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"input": x})[0]
    import torch

    jit: Any = torch.jit
    model = torch.export.load(path).module() if form == "pt2" else jit.load(path)

    def ask(x: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return ask


def _measured(data: DataModule, task: Any, path: Path, small: Path) -> dict[str, Any]:
    """What the task scores samples by (accuracy, say), of both files on the test set, and their sizes."""
    import torch

    found: dict[str, float] = {}
    for name, file in {"onnx": path, "int8": small}.items():
        ask, scores = _loaded(name, str(file)), []
        for batch in data.loader("test" if len(data.indices["test"]) else "val"):
            scores.append(task.score(torch.from_numpy(ask(batch.x.numpy())), batch.y))
        found[name] = float(torch.cat(scores).double().mean())
    return {"metric": task.scored, "before": found["onnx"], "after": found["int8"],
            "bytes_before": path.stat().st_size}  # fmt: skip
