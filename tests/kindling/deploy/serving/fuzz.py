"""Mutated files, and a process that reads them, since a library may end the process that reads."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from src.kindling.config.errors import InputError

# No shrinking: a case that fails is small enough, and each takes a process.
PHASES = (Phase.explicit, Phase.generate)


def run_cases(count: int, check: Callable[[Any], None], strategy: st.SearchStrategy[Any]) -> None:
    """Check cases of a strategy, the same in each run."""
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of the size of what has failed
        quiet(given(strategy)(lambda case: check(case)))()


@st.composite
def mutated(draw: st.DrawFn, *contents: bytes) -> bytes:
    """One of the contents with some bytes replaced, a slice removed or repeated, or its end cut."""
    content = bytearray(draw(st.sampled_from(contents)))
    position = st.integers(0, max(0, len(content) - 1))
    edits = st.tuples(position, st.binary(min_size=1, max_size=8))
    for start, new in draw(st.lists(edits, max_size=6)):
        content[start : start + len(new)] = new
    change = draw(st.sampled_from(["none", "none", "cut", "remove", "repeat"]))
    first, last = sorted((draw(position), draw(position)))
    if change == "cut":
        del content[last:]
    elif change == "remove":
        del content[first:last]
    elif change == "repeat":
        content[last:last] = content[first:last]
    return bytes(content)


def read_onnx(path: Path) -> None:
    from src.kindling.deploy.serving.model import Model

    model = Model(path, 1)
    model.responses.format(model.predict(np.zeros((1, *model.shape), model.dtype)), [(8, 8)])


def read_image(path: Path) -> None:
    from src.kindling.data.images.decode import decode

    decode(str(path), 3, 1_000_000, 64)


def read_table(path: Path) -> None:
    from src.kindling.data.spec import Column, Spec
    from src.kindling.deploy.predict_inputs import load_rows

    columns = (Column("size"), Column("color", "category", ("red",)))
    spec = Spec((2,), 1, "table", columns=columns)
    list(load_rows([str(path)], None, spec, 64, []))


def read_arrays(path: Path) -> None:
    from src.kindling.analysis.predictions import Predictions

    Predictions.load(path)


READERS = {
    ".onnx": read_onnx,
    ".png": read_image,
    ".csv": read_table,
    ".parquet": read_table,
    ".npz": read_arrays,
}


def read_file(path: Path, content: bytes) -> str:
    """Read a file of this content, and return the traceback of what is not an InputError."""
    path.write_bytes(content)
    try:
        READERS[path.suffix](path)
    except InputError as error:
        return "" if all(str(path) in line for line in error.lines) else f"no file: {error.lines}"
    except Exception:
        return traceback.format_exc()
    return ""
