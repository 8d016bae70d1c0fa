"""The file of an exported model: write, quantize, load it, and compare it in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from src.kindling.data.data_module import DataModule
    from src.kindling.deploy.export_model import Exportable

FILES = {
    "onnx": "model.onnx",
    "int8": "model.int8.onnx",
    "pt2": "model.pt2",
    "torchscript": "model.torchscript.pt",
}
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by the format `onnx`
# The largest allowed difference: of probabilities, or as a share of the values' standard deviation.
TOLERANCE = 1e-5
TIMING_SECONDS = 0.05  # for each batch size; one call at least


def _write_onnx(model: Exportable, path: Path) -> None:
    import torch

    program = torch.onnx.export(
        model.module,
        (model.example,),
        dynamic_shapes=({0: "batch"},) if model.is_dynamic else None,
        input_names=["input"],
        output_names=[model.facts["output"]["name"]],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # the exporter's notes, with the paths of this machine
    metadata = program.model.metadata_props
    for name, fact in model.facts.items():
        metadata[name] = fact if isinstance(fact, str) else json.dumps(fact)
    # Tells onnxruntime's quantization that shapes are inferred and constants folded already.
    metadata["onnx.quant.pre_process"] = "onnxruntime.quant"
    program.save(path, external_data=False)


def _write_pt2(model: Exportable, path: Path) -> None:
    from torch.export import Dim, export, save

    shapes = ({0: Dim("batch")},) if model.is_dynamic else None
    program = export(model.module, (model.example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    save(program, path, extra_files={"kindling.json": json.dumps(model.facts)})


def _write_torchscript(model: Exportable, path: Path) -> None:
    import torch

    jit: Any = torch.jit
    # Around a function, tracing asks nothing of Lightning's module but to compute.
    traced = jit.trace(lambda x: model.module(x), (model.example,))
    jit.save(traced, str(path), _extra_files={"kindling.json": json.dumps(model.facts)})


WRITERS: dict[str, Callable[[Exportable, Path], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "torchscript": _write_torchscript,
}


def quantize(path: Path, small: Path, x: Tensor) -> None:
    """Write 8-bit convolutions and linear layers, with ranges from samples `(N, *raw_shape)`."""
    from onnxruntime.quantization import QuantType, quantize_static

    batches = ({"input": batch} for batch in np.array_split(x.numpy(), max(1, len(x) // 64)))
    quantize_static(
        path,
        small,
        SimpleNamespace(get_next=lambda: next(batches, None)),
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,  # weights of 7 bits: processors without VNNI would overflow with 8
    )


def load_file(form: str, path: str) -> Callable[[Any], Any]:
    """Load a file as a function of a batch `(B, *raw_shape)`, arrays in and out."""
    if FILES[form].endswith(".onnx"):
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"input": x})[0]
    import torch

    jit: Any = torch.jit
    model = torch.export.load(path).module() if form == "pt2" else jit.load(path)

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return run


def prove(form: str, path: Path, model: Exportable) -> dict[str, Any]:
    """Run a file in a fresh process, and refuse outputs that differ; int8 is only measured."""
    import torch

    outputs = model.outputs
    np.save(path.with_name("x.npy"), model.x.numpy())
    run_in_fresh_process(form, path, *model.batch_sizes)
    with np.load(path.with_name("measured.npz")) as found:
        measured, milliseconds = found["outputs"], found["milliseconds"].tolist()
    decides = outputs is not None and outputs.decision["kind"] != "none"
    difference = _largest_difference(measured, model)
    # Written so that NaN is refused too.
    if form != "int8" and not difference <= TOLERANCE:
        scale = "output" if outputs is None else "target"
        unit = "" if decides else f" of the {scale}'s standard deviation"
        raise InputError(
            f"{FILES[form]}: not exported: its outputs differ from the run's by up to "
            f"{difference:.2g}{unit}, and {TOLERANCE:g} is allowed; remove random operations and "
            "state between calls from the net"
        )
    agreement = None
    if outputs is not None and decides:
        decoded = torch.stack([outputs.decode(torch.from_numpy(batch)) for batch in measured])
        agreement = float((decoded == outputs.decode(model.expected)).double().mean())
    return {
        "file": FILES[form],
        "bytes": path.stat().st_size,
        "samples": len(model.x),
        "difference": difference,
        "agreement": agreement,
        "milliseconds": dict(zip(map(str, model.batch_sizes), milliseconds, strict=True)),
        "packages": {name: version(name) for name in ("torch", *NEEDED) if find_spec(name)},
    }


def _largest_difference(measured: Any, model: Exportable) -> float:
    """The largest difference of outputs `(batch sizes, N, …)` from the run's, by their scale."""
    expected = model.expected.numpy().astype(np.float64)
    if measured.shape[1:] != expected.shape:
        return float("inf")
    scale = getattr(model.outputs, "std", 1.0)
    if model.outputs is None:
        scale = max(1.0, float(expected.std()))
    return float(np.abs((measured - expected) / np.array(scale)).max())


def run_in_fresh_process(form: str, path: Path, *batch_sizes: int) -> None:
    """Call `measure` in a separate process, for ONNX in one that cannot import torch."""
    words = [form, path, *batch_sizes]
    command = [sys.executable, "-m", "src.kindling.deploy.export_files", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise InputError(f"{path.name}: not exported: a fresh process cannot use it: {lines[-1]}")


def measure(form: str, path: str, *batch_sizes: str) -> None:
    """Run a file on x.npy beside it with each batch size, and write outputs and times."""
    model, x = load_file(form, path), np.load(Path(path).with_name("x.npy"))
    outputs, milliseconds = [], []
    for size in map(int, batch_sizes):
        batches = [model(x[start : start + size]) for start in range(0, len(x), size)]
        outputs.append(np.concatenate(batches))
        milliseconds.append(_time_call(partial(model, x[:size])))
    file = Path(path).with_name("measured.npz")
    np.savez(file, outputs=np.stack(outputs), milliseconds=milliseconds)


def _time_call(call: Callable[[], object]) -> float:
    """Measure the mean milliseconds of a call, over TIMING_SECONDS."""
    calls, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < TIMING_SECONDS:
        call()
        calls += 1
    return 1000 * seconds / calls


def compare_int8(data: DataModule, outputs: Any, path: Path, small: Path) -> dict[str, Any]:
    """Compute the task's score, such as accuracy, of both files on the test set; compare sizes."""
    import torch

    found: dict[str, float] = {}
    for name, file in {"onnx": path, "int8": small}.items():
        model, scores = load_file(name, str(file)), []
        for x, y in data.loader("test" if len(data.indices["test"]) else "val"):
            scores.append(outputs.score(torch.from_numpy(model(x.numpy())), y))
        found[name] = float(torch.cat(scores).double().mean())
    return {
        "metric": outputs.score_name,
        "before": found["onnx"],
        "after": found["int8"],
        "bytes_before": path.stat().st_size,
    }


if __name__ == "__main__":
    if sys.argv[2].endswith(".onnx"):
        sys.modules["torch"] = None  # type: ignore[assignment]
    measure(*sys.argv[1:])
