"""Report a net or a loss that does not fit the data in one line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.config.targets import parameters
from src.kindling.nn.additions import outputs_of
from src.kindling.runs.files import display_path

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


def explain(error: Exception, parts: dict[str, Any]) -> str | None:
    """The line for an error inside a net or a loss, which are given by key; None for another."""
    called, where = None, ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        local, file = frame.f_locals, frame.f_code.co_filename
        for key, part in parts.items():  # a module's __call__ has the variables self and args
            if called is None and part is not None and part is local.get("self"):
                called = (key, part, local["args"]) if "args" in local else None
        if "/src/nets/" in file:
            where = f" ({display_path(Path(file))}:{number})"
    if called is None or not isinstance(error, REFUSALS):
        return None
    key, part, arguments = called
    message = str(error).partition("\n")[0]
    remedy = next(REMEDIES[sign] for sign in REMEDIES if re.match(sign, f"{key}: {message}"))
    given = " and ".join(map(_describe, arguments))
    return f"{key}: {type(part).__name__} does not accept {given}: {message}{where}; {remedy}"


def watch_output(task: Any) -> None:
    """Refuse a net whose output does not have the shape that the task's `outputs` expect."""

    def check(net: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        expected = (len(arguments[0]), *task.outputs.shape)
        if getattr(output, "shape", None) != expected:
            raise InputError(_wrong_output(net, output, expected))

    if outputs_of(task) and isinstance(getattr(task, "net", None), nn.Module):
        task.net.register_forward_hook(check)


def _wrong_output(net: nn.Module, output: Any, expected: tuple[int, ...]) -> str:
    accepted = parameters(type(net))
    sizes = [name for name in ("num_classes", "out_features") if name in accepted]
    remedy = "give the net an argument num_outputs, the size of its last layer"
    if not isinstance(output, Tensor):
        auxiliary = "aux_logits" in accepted
        remedy = "set net.aux_logits=false" if auxiliary else "wrap it in one that returns a tensor"
    elif len(expected) > 2 and output.ndim != len(expected):
        remedy = "the task needs an output for each pixel; set net=unet"
    elif sizes:
        remedy = f"set net.{sizes[0]}='${{spec.num_outputs}}'"
    returned = f"{type(net).__name__} returns {_describe(output)}"
    return f"net: {returned}, but the task expects a tensor {expected}; {remedy}"


def _describe(value: Any) -> str:
    """`(4, 10) float32` of a tensor, `a tuple` of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
