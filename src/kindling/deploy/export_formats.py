"""The formats of an exported model: how each is written, quantized and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

FILES = {
    "onnx": "model.onnx",
    "int8": "model.int8.onnx",
    "pt2": "model.pt2",
    "torchscript": "model.torchscript.pt",
}
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by the format `onnx`


def _write_onnx(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    import torch

    is_dynamic = facts["input"]["shape"][0] == "batch"
    program = torch.onnx.export(
        module,
        (x,),
        dynamic_shapes=({0: "batch"},) if is_dynamic else None,
        input_names=["input"],
        output_names=[facts["output"]["name"]],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # the exporter's notes, with the paths of this machine
    texts = {
        name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()
    }
    # Tells onnxruntime's quantization that shapes are inferred and constants folded already.
    program.model.metadata_props.update(texts | {"onnx.quant.pre_process": "onnxruntime.quant"})
    program.save(path, external_data=False)


def _write_pt2(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    from torch.export import Dim, export, save

    is_dynamic = facts["input"]["shape"][0] == "batch"
    shapes = ({0: Dim("batch")},) if is_dynamic else None
    program = export(module, (x,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    save(program, path, extra_files={"kindling.json": json.dumps(facts)})


def _write_torchscript(module: nn.Module, x: Tensor, path: Path, facts: dict[str, Any]) -> None:
    import torch

    jit: Any = torch.jit
    # Around a function, tracing asks nothing of Lightning's module but to compute.
    jit.save(
        jit.trace(lambda x: module(x), (x,)),
        str(path),
        _extra_files={"kindling.json": json.dumps(facts)},
    )


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, dict[str, Any]], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "torchscript": _write_torchscript,
}


def quantize(path: Path, small: Path, x: Tensor) -> None:
    """Write 8-bit convolutions and linear layers, with ranges from samples `(N, *raw_shape)`."""
    import numpy as np
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
