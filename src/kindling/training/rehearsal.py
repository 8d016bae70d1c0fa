"""Tries what a training needs before it begins, so that what could only end in a traceback is told in one line."""

from __future__ import annotations

import copy
import os
import re
import shutil
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.config.targets import parameters
from src.kindling.data.batch import STAGES, Batch
from src.kindling.data.data_module import DataModule
from src.kindling.data.spec import Spec
from src.kindling.runs.files import shown
from src.kindling.runs.run import ELSEWHERE, Run

SHARED = Path("/dev/shm")  # where workers leave their batches
# A larger task is tried by its shapes alone (torch's meta device): a copy, its gradients and its steps on the CPU would
# take seconds, and memory that a machine with a GPU may not have. ResNet-18 has 45 MiB, ResNet-50 98.
COPIED = 64 << 20
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)  # what shapes, types and values raise
# Lightning calls these before a step: a step that fails without them may well work with them.
BEFORE = [name for name in dir(LightningModule) if re.fullmatch("setup|configure_model|on_.*_(start|transfer)", name)]
# Some nets run on a GPU alone, and meta knows shapes alone: such errors say nothing of the training.
OF_DEVICE = re.compile(r"\bmeta\b|cuda|nvidia|device|triton|not implemented for", re.IGNORECASE)
REMEDIES = {  # by torch's message
    "1 value per channel": "batch normalization needs a larger data.batch_size",
    "channel": "torchvision.transforms.v2.RGB in data.train_transforms and data.test_transforms makes three of one",
    "Kernel size|too small|Wrong image": "larger pictures (data.size, or torchvision.transforms.v2.Resize) may do",
    "dtype|scalar type": "raw values have types of their own, and src.kindling.data.preprocess makes them float32",
    "": "an argument in_shape tells a net the data's shape",
}


def preflight(run: Run, data: DataModule, task: LightningModule) -> None:
    """Write to the run's directory, look for room, and make a step of each stage with a copy of the task, on the CPU.

    No weight, buffer, gradient, meter or random generator is changed. Where a step asks for the Trainer, its trial ends.

    Raises:
        InputError: one line. An error in the code of a task or a net is raised as it is.
    """
    probe = run.path / f".probe-{os.getpid()}"
    try:
        with probe.open("wb", buffering=0) as file:
            file.write(b"probe")
            os.fsync(file.fileno())
        probe.replace(probe.with_suffix(".renamed")).unlink()
    except OSError as error:
        raise InputError(f"{shown(run.path)}: cannot be written: {error.strerror}; {ELSEWHERE}") from error
    weights = sum(value.nbytes for value in task.state_dict().values() if isinstance(value, Tensor))
    trained = sum(parameter.nbytes for parameter in task.parameters() if parameter.requires_grad)
    # The best holds the weights; the last, the one before it and the one being written hold two states of each as well.
    needed = 4 * weights + 6 * trained - sum(file.stat().st_size for file in run.checkpoints.glob("*.ckpt"))
    _need(run.path, needed, "the checkpoints", "make room, or let logs/ be a link elsewhere")
    if task.automatic_optimization and not any(parameter.requires_grad for parameter in task.parameters()):
        raise InputError(f"net: {type(task.net).__name__} has no parameter to train (requires_grad); choose another")
    errors: list[Exception] = []
    few = 2 if data.spec.num_outputs != 2 else 3  # as many samples as outputs would fit where they should not
    with isolate_rng(include_cuda=False), warnings.catch_warnings(action="ignore"):
        for count in (few, 16):  # what only a few samples cannot do is no mistake
            try:
                return _try(data, task, min(count, data.batch_size))
            except Exception as error:
                errors.append(error)
    raise errors[0]


def _need(place: Path, needed: int, what: str, remedy: str) -> None:
    if needed > (free := shutil.disk_usage(place).free):
        raise InputError(f"{shown(place)}: {what} need {-(-needed >> 20):,} MiB, and {free >> 20:,} are free; {remedy}")


class _NoTrainer(Exception):
    """Stands for the Trainer, and is raised when it is asked for something: then no mistake has been made."""

    current_epoch = global_step = global_rank = local_rank = 0

    def __getattr__(self, name: str) -> Any:
        raise self


def _try(data: DataModule, task: LightningModule, count: int) -> None:
    shapes: dict[int, Any] = {}
    if sum(tensor.nbytes for tensor in (*task.parameters(), *task.buffers())) > COPIED:
        shapes = {id(buffer): buffer.to("meta") for buffer in task.buffers()}
        shapes |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in task.parameters()}
    try:
        twin = copy.deepcopy(task, shapes.copy())
    except Exception:  # it holds what there is only one of: an open file, a lock
        return
    hooked = any(is_overridden(name, twin) for name in BEFORE) or is_overridden("on_after_batch_transfer", data)
    given: dict[str, Any] = {}  # the net or the loss, while it is at work, and its arguments
    for key, part in {"net": twin.net, "task.loss": getattr(twin, "loss", None)}.items():
        if isinstance(part, nn.Module):
            part.register_forward_pre_hook(lambda part, x, key=key: given.update({key: (part, x)}))
            part.register_forward_hook(lambda *_: given.clear())
    shape: tuple[int, ...] | None = getattr(twin, "out_shape", None)
    if shape and isinstance(twin.net, nn.Module):
        twin.net.register_forward_hook(lambda net, x, outputs: _check_outputs(net, x, outputs, data.spec, shape))
    twin.trainer, twin.log = _NoTrainer(), lambda *_, **__: None  # type: ignore[assignment, method-assign]
    steps = {"train": twin.training_step, "val": twin.validation_step, "test": twin.test_step}
    for stage in (stage for stage in STAGES if len(data.indices[stage])):
        batch = data.datasets[stage][(0, 0, data.indices[stage][:count])]
        if stage == "train" and SHARED.is_dir():  # each worker has two batches ready
            size = min(data.batch_size, len(data.indices[stage])) * (batch.x.nbytes + batch.y.nbytes) // len(batch.x)
            _need(SHARED, 2 * data.num_workers * size, "the batches of data.num_workers",
                  "set it to 0, take a smaller data.batch_size or more shared memory (docker: --shm-size)")  # fmt: skip
        if shapes:
            batch = batch._replace(x=batch.x.to("meta"), y=batch.y.to("meta"))
        given.clear()
        try:
            _step(twin, steps[stage], batch, stage == "train")
        except Exception as error:
            if isinstance(error, _NoTrainer | NotImplementedError) or hooked or OF_DEVICE.search(str(error)):
                continue
            if given and isinstance(error, REFUSALS):
                raise _refused(given, error, data.spec) from error
            raise


def _step(twin: LightningModule, step: Any, batch: Batch, training: bool) -> None:
    if not training:
        twin.eval()
    with torch.set_grad_enabled(training):
        result = step(batch, 0) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
    loss = result.get("loss") if isinstance(result, dict) else result
    if not training or not isinstance(loss, Tensor) or not twin.automatic_optimization:
        return  # what a step may return is Lightning's to say
    if loss.numel() != 1:
        raise InputError(f"task.loss: gives {_told(loss)} instead of one number; task.loss.reduction=mean")
    if not loss.is_meta and not loss.isfinite():
        raise InputError(f"task.loss: is {loss.item():g} before the first step; look at the targets")
    loss.backward()  # type: ignore[no-untyped-call]


def _check_outputs(net: nn.Module, x: tuple[Tensor, ...], outputs: Any, spec: Spec, shape: tuple[int, ...]) -> None:
    name, wanted, takes = type(net).__name__, (*map(len, x[:1] or [outputs]), *shape), parameters(type(net))
    if not isinstance(outputs, Tensor):
        remedy = "net.aux_logits=false" if "aux_logits" in takes else "let a net of your own around it return one"
        raise InputError(f"net: {name} gives {_told(outputs)} instead of a tensor {wanted}; {remedy}")
    if outputs.shape != wanted:
        argument = next((known for known in ("num_classes", "out_features") if known in takes), None)
        remedy = f"net.{argument}='${{spec.num_outputs}}' tells it" if argument else "let it take num_outputs"
        if len(shape) > 1 and outputs.ndim != len(wanted):
            remedy = "the task needs them for each pixel; try net=unet"
        kinds = {"class": "classes", "labels": "labels", "values": "values to predict", "mask": "classes in masks"}
        of = f"{spec.num_outputs} {kinds[spec.predicts]}"
        raise InputError(f"net: {name} gives {tuple(outputs.shape)}, and the data has {of}: {wanted}; {remedy}")
    if not outputs.is_meta and outputs.isnan().any():
        raise InputError(f"net: {name} gives NaN before the first step; look at " + (
            "what it divides by" if all(part.isfinite().all() for part in x) else "its input, which is not finite"))  # fmt: skip


def _refused(given: dict[str, Any], error: Exception, spec: Spec) -> InputError:
    ((key, (part, x)), *_), message = given.items(), str(error).partition("\n")[0]
    kind, fitting = {
        "class": ("classes", "CrossEntropyLoss"), "labels": ("labels", "BCEWithLogitsLoss"),
        "values": ("values", "MSELoss"), "mask": ("masks", "CrossEntropyLoss"),
    }[spec.predicts]  # fmt: skip
    what, remedy = "outputs " + " and targets ".join(map(_told, x[:2])), "look at its arguments"
    if key == "net":
        what, remedy = f"data: {_told(*x[:1])}", next(REMEDIES[sign] for sign in REMEDIES if re.search(sign, message))
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/src/nets/" in frame.filename]
        message += f" ({shown(Path(own[-1].filename))}:{own[-1].lineno})" if own else ""
    elif type(part).__name__ != fitting:
        remedy = f"for {kind} use task.loss._target_=torch.nn.{fitting}"
    return InputError(f"{key}: {type(part).__name__} does not take these {what}: {message}; {remedy}")


def _told(value: Any = None) -> str:
    return f"{tuple(value.shape)} {str(value.dtype)[6:]}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
