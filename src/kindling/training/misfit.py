"""Report a net or a loss that does not fit the data in one line, not a traceback."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.config.targets import parameters
from src.kindling.runs.files import shown

Entered = dict[str, tuple[nn.Module, tuple[Any, ...]]]  # by key, the part and its arguments
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
REMEDIES = {  # by key and torch's message; the first that matches
    "net: .*1 value per channel": "batch normalization needs a larger data.batch_size",
    "net: .*channel": "add torchvision.transforms.v2.RGB to data.train_transforms and "
    "data.eval_transforms for three channels",
    "net: .*(Kernel size|too small|Wrong image)": "set a larger data.size, or add "
    "torchvision.transforms.v2.Resize",
    "net: .*(dtype|scalar type)": "cast the input, or set trainer.precision",
    "net: ": "give the net an argument in_shape, the shape of the data",
    "": "set task.loss=null for the task's own loss, or check its arguments",
}


@contextmanager
def explained(task: LightningModule) -> Iterator[None]:
    """Raise an InputError for an error inside the task's net or loss, or for what they return."""
    entered: Entered = {}
    shape = getattr(getattr(task, "outputs", None), "shape", None)
    for key, name in (("net", "net"), ("task.loss", "loss")):
        if isinstance(part := getattr(task, name, None), nn.Module):
            _watch(key, part, entered, shape if key == "net" else None)
    try:
        yield
    except REFUSALS as error:
        if not entered:
            raise
        key, (part, arguments) = next(iter(entered.items()))
        raise _refusal(key, part, arguments, error) from error


def _watch(key: str, part: nn.Module, entered: Entered, shape: tuple[int, ...] | None) -> None:
    def enter(part: nn.Module, arguments: tuple[Any, ...]) -> None:
        entered[key] = part, arguments

    def leave(part: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        entered.clear()
        if shape:
            _check_shape(part, result, (len(arguments[0]), *shape))
        if not isinstance(result, Tensor):
            return
        wrong = result.isnan() if key == "net" else ~result.isfinite()
        if wrong.any():
            remedy = "check the data for NaN/Inf, then its divisions and logarithms"
            returned = f"{type(part).__name__} returns NaN/Inf before the first step"
            raise InputError(f"{key}: {returned}; {remedy}")

    part.register_forward_pre_hook(enter)
    part.register_forward_hook(leave)


def _check_shape(net: nn.Module, result: Any, expected: tuple[int, ...]) -> None:
    if isinstance(result, Tensor) and result.shape == expected:
        return
    accepted = parameters(type(net))
    sizes = [name for name in ("num_classes", "out_features") if name in accepted]
    if not isinstance(result, Tensor):
        aux = "aux_logits" in accepted
        remedy = "set net.aux_logits=false" if aux else "wrap it in a net that returns one tensor"
    elif len(expected) > 2 and result.ndim != len(expected):
        remedy = "the task needs an output for each pixel; set net=unet"
    elif sizes:
        remedy = f"set net.{sizes[0]}='${{spec.num_outputs}}'"
    else:
        remedy = "give the net an argument num_outputs, the size of its last layer"
    returned = f"{type(net).__name__} returns {_describe(result)}"
    raise InputError(f"net: {returned}, but the task expects a tensor {expected}; {remedy}")


def _refusal(key: str, part: nn.Module, arguments: tuple[Any, ...], error: Exception) -> InputError:
    message = str(error).partition("\n")[0]
    remedy = next(REMEDIES[sign] for sign in REMEDIES if re.match(sign, f"{key}: {message}"))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/src/nets/" in frame.filename]
    if own:
        message += f" ({shown(Path(own[-1].filename))}:{own[-1].lineno})"
    given = " and ".join(map(_describe, arguments))
    return InputError(f"{key}: {type(part).__name__} does not accept {given}: {message}; {remedy}")


def _describe(value: Any) -> str:
    """`(4, 10) float32` of a tensor, `a tuple` of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
