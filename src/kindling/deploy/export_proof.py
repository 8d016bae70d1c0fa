"""Compare an exported file, loaded in a fresh process, with its run."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.deploy.export_formats import FILES, NEEDED, Exportable, load_file

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule

# Test samples of the comparison, and the batch sizes in which the file gets them.
SAMPLES, BATCH_SIZES = 64, (1, 2, 7, 64)
# The largest allowed difference: of probabilities, or as a share of the values' standard deviation.
TOLERANCE = 1e-5
# Run by the fresh process; its first argument is a module that it must not import.
FRESH = (
    "import sys; sys.modules[sys.argv[1]] = None; "
    "from src.kindling.deploy.export_proof import answer; answer(*sys.argv[2:])"
)


def prove(form: str, path: Path, model: Exportable) -> dict[str, Any]:
    """Run a file in a fresh process and compare its outputs with those of the run.

    Raises:
        InputError: when the file cannot be loaded, or its outputs differ; int8 is only measured.
    """
    import numpy as np

    asked, answered = path.with_name("asked.npy"), path.with_name("answered.npz")
    np.save(asked, model.x.numpy())
    in_fresh_process(form, path, asked, answered, *model.batch_sizes)
    with np.load(answered) as found:
        answers, milliseconds = found["answers"], found["milliseconds"].tolist()
    difference = largest_difference(answers, model)
    decides = model.outputs is not None and model.outputs.decision["kind"] != "none"
    # Written so that NaN is refused too.
    if not difference <= (TOLERANCE if form != "int8" else float("inf")):
        unit = "" if decides else f" of the {_scale_name(model)}'s standard deviation"
        raise InputError(
            f"{FILES[form]}: not exported: its answers differ from the run's by up to "
            f"{difference:.2g}{unit}, and {TOLERANCE:g} is allowed; remove random operations and "
            "state between calls from the net"
        )
    return {
        "file": FILES[form],
        "bytes": path.stat().st_size,
        "samples": len(model.x),
        "difference": difference,
        "agreement": share_of_equal_decisions(answers, model) if decides else None,
        "milliseconds": dict(zip(map(str, model.batch_sizes), milliseconds, strict=True)),
        "packages": {name: version(name) for name in ("torch", *NEEDED) if find_spec(name)},
    }


def _scale_name(model: Exportable) -> str:
    return "output" if model.outputs is None else "target"


def largest_difference(answers: Any, model: Exportable) -> float:
    """The largest difference of answers `(batch sizes, N, …)` from the run's, by their scale.

    Probabilities have no scale. Values have the target's standard deviation, and the outputs of a
    plain `forward` their own where it exceeds 1.
    """
    import numpy as np

    expected = model.expected.numpy().astype(np.float64)
    if answers.shape[1:] != expected.shape:
        return float("inf")
    scale = getattr(model.outputs, "std", 1.0)
    if model.outputs is None:
        scale = max(1.0, float(expected.std()))
    return float(np.abs((answers - expected) / np.array(scale)).max())


def share_of_equal_decisions(answers: Any, model: Exportable) -> float:
    """The share of decisions (classes, labels, pixels) that equal the run's."""
    import torch

    decoded = torch.stack([model.outputs.decode(torch.from_numpy(some)) for some in answers])
    return float((decoded == model.outputs.decode(model.expected)).double().mean())


def in_fresh_process(form: str, path: Path, asked: Path, answered: Path, *batch_sizes: int) -> None:
    """Call `answer` in a separate process, for ONNX in one that cannot import torch."""
    without = "torch" if path.suffix == ".onnx" else "onnxruntime"
    command = [
        sys.executable,
        "-c",
        FRESH,
        without,
        form,
        *map(str, (path, asked, answered, *batch_sizes)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        reason = lines[-1]
        raise InputError(f"{path.name}: not exported: a fresh process cannot use it: {reason}")


def answer(form: str, path: str, asked: str, answered: str, *batch_sizes: str) -> None:
    """In a fresh process: load a file, run it with each batch size, and time it."""
    import numpy as np

    ask, x = load_file(form, path), np.load(asked)
    answers, milliseconds = [], []
    for size in map(int, batch_sizes):
        batches = [ask(x[start : start + size]) for start in range(0, len(x), size)]
        answers.append(np.concatenate(batches))
        times: list[float] = []
        until = time.perf_counter() + 0.3
        while not times or (time.perf_counter() < until and len(times) < 200):
            began = time.perf_counter()
            ask(x[:size])
            times.append(1000 * (time.perf_counter() - began))
        milliseconds.append(np.median(times))
    np.savez(answered, answers=np.stack(answers), milliseconds=milliseconds)


def compare_int8(data: DataModule, outputs: Any, path: Path, small: Path) -> dict[str, Any]:
    """The task's score, such as accuracy, of both files on the test set, and their sizes."""
    import torch

    found: dict[str, float] = {}
    for name, file in {"onnx": path, "int8": small}.items():
        ask, scores = load_file(name, str(file)), []
        for x, y in data.loader("test" if len(data.indices["test"]) else "val"):
            scores.append(outputs.score(torch.from_numpy(ask(x.numpy())), y))
        found[name] = float(torch.cat(scores).double().mean())
    return {
        "metric": outputs.score_name,
        "before": found["onnx"],
        "after": found["int8"],
        "bytes_before": path.stat().st_size,
    }
