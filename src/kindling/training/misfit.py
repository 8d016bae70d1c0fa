"""Messages about a net, a loss or an output that does not fit."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.config.targets import parameters
from src.kindling.data.spec import Spec
from src.kindling.runs.files import shown

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
REMEDIES = {  # by torch's message
    "1 value per channel": "batch normalization needs a larger data.batch_size",
    "channel": "torchvision.transforms.v2.RGB in data.train_transforms and "
    "data.eval_transforms makes three of one",
    "Kernel size|too small|Wrong image": "set a larger data.size, or "
    "torchvision.transforms.v2.Resize",
    "dtype|scalar type": "cast the input, or set trainer.precision",
    "": "give the net an argument in_shape, which is the data's shape",
}
LOSSES = {
    "class": ("classes", "CrossEntropyLoss"),
    "labels": ("labels", "BCEWithLogitsLoss"),
    "values": ("values", "MSELoss"),
    "mask": ("masks", "CrossEntropyLoss"),
}


class Watched:
    """Records the calls of a task's net and loss, so that an error names part and arguments."""

    def __init__(self, task: LightningModule, spec: Spec | None) -> None:
        self.spec = spec if isinstance(spec, Spec) else None
        self.entered: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
        self.shape: tuple[int, ...] | None = getattr(getattr(task, "outputs", None), "shape", None)
        for key, name in (("net", "net"), ("task.loss", "loss")):
            part = getattr(task, name, None)
            if isinstance(part, nn.Module):
                self._watch(key, part)

    def _watch(self, key: str, part: nn.Module) -> None:
        def enter(part: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.entered[key] = (part, arguments)

        def leave(part: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
            self.entered.clear()
            if key == "net" and self.spec and self.shape:
                check_outputs(part, arguments, outputs, self.spec, self.shape)
            if key == "task.loss":
                check_loss(outputs)

        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave)

    def explain(self, error: Exception) -> None:
        """Raise an InputError for an error that was raised within the net or the loss."""
        if "grad can be implicitly created only for scalar outputs" in str(error):
            raise InputError("task: the loss is not one number; return its mean") from error
        if self.spec and self.entered and isinstance(error, REFUSALS):
            key, (part, arguments) = next(iter(self.entered.items()))
            raise refused(key, part, arguments, error, self.spec) from error


def check_loss(loss: Any) -> None:
    """Refuse a loss that is not one finite number."""
    if not isinstance(loss, Tensor):
        return
    if loss.numel() != 1:
        raise InputError(
            f"task.loss: gives {describe(loss)} instead of one number; set task.loss.reduction=mean"
        )
    if not loss.isfinite():
        raise InputError(f"task.loss: is {loss.item():g} before the first step; check the targets")


def check_outputs(
    net: nn.Module, x: tuple[Any, ...], outputs: Any, spec: Spec, shape: tuple[int, ...]
) -> None:
    """Refuse a net whose output does not have the shape that the task's `outputs` expect."""
    name, takes = type(net).__name__, parameters(type(net))
    wanted = (*map(len, x[:1] or [outputs]), *shape)
    if not isinstance(outputs, Tensor):
        remedy = (
            "set net.aux_logits=false"
            if "aux_logits" in takes
            else "wrap it in a net that returns one"
        )
        raise InputError(
            f"net: {name} gives {describe(outputs)} instead of a tensor {wanted}; {remedy}"
        )
    if outputs.shape != wanted:
        known = ("num_classes", "out_features")
        argument = next((argument for argument in known if argument in takes), None)
        remedy = (
            f"set net.{argument}='${{spec.num_outputs}}'" if argument else "let it take num_outputs"
        )
        if len(shape) > 1 and outputs.ndim != len(wanted):
            remedy = "the task needs them for each pixel; set net=unet"
        kinds = {"class": "classes", "labels": "labels", "values": "values to predict"}
        kind = f"{spec.num_outputs} {kinds.get(spec.target_type, 'classes in masks')}"
        gives = f"{name} gives {tuple(outputs.shape)}"
        raise InputError(f"net: {gives}, and the data has {kind}: {wanted}; {remedy}")
    if outputs.isnan().any():
        finite = all(part.isfinite().all() for part in x if isinstance(part, Tensor))
        where = "what it divides by" if finite else "its input, which is not finite"
        raise InputError(f"net: {name} gives NaN before the first step; check {where}")


def refused(
    key: str, part: nn.Module, x: tuple[Any, ...], error: Exception, spec: Spec
) -> InputError:
    """The line for a net or a loss that does not take what it is given."""
    message = str(error).partition("\n")[0]
    kind, fitting = LOSSES[spec.target_type]
    what, remedy = "outputs " + " and targets ".join(map(describe, x[:2])), "check its arguments"
    if key == "net":
        what = f"data: {describe(*x[:1])}"
        remedy = next(REMEDIES[sign] for sign in REMEDIES if re.search(sign, message))
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/src/nets/" in frame.filename]
        message += f" ({shown(Path(own[-1].filename))}:{own[-1].lineno})" if own else ""
    elif type(part).__name__ != fitting:
        remedy = f"for {kind} set task.loss._target_=torch.nn.{fitting}"
    name = type(part).__name__
    return InputError(f"{key}: {name} does not take these {what}: {message}; {remedy}")


def describe(value: Any = None) -> str:
    """`(4, 10) float32` of a tensor, `a tuple` of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
