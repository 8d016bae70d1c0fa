"""Turn errors of libraries, the system, and of nets that do not fit into one line of advice."""

from __future__ import annotations

import re
import shlex
import traceback
from errno import errorcode
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError
from src.kindling.config.targets import locate, parameters
from src.kindling.nn.additions import outputs_of
from src.kindling.runs.files import display_path
from src.kindling.runs.run import Run

# By a pattern of `class errno-name: message`. The first that matches the error or one of its causes
# is given; the pattern's named groups and the values of `_facts` fill the fields.
HINTS = {
    r"^OutOfMemoryError|(CUDA|MPS backend) out of memory|CUDA error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED": "the GPU has no memory left{peak}; {less}",
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|^\w*MemoryError": (
        "the machine has no memory left; {less}"
    ),
    r"Bus error|(shared memory|/torch_\w+>).*No space": (
        "the shared memory (/dev/shm) of the data workers is full; set data.num_workers=0 or a "
        "smaller data.batch_size, or add shared memory (docker: --shm-size)"
    ),
    r"DataLoader worker .* killed by signal: Killed": (
        "the system killed a data worker, most likely for lack of memory; set fewer "
        "data.num_workers or a smaller data.batch_size"
    ),
    r"DataLoader worker .* signal: (?P<why>[\w ]+)": (
        "a data worker crashed ({why}); set data.num_workers=0 to see where"
    ),
    r"DataLoader worker .* exited unexpectedly": (
        "a data worker exited; set data.num_workers=0 to see where"
    ),
    r"DataLoader timed out after (?P<after>[\d.]+) seconds": (
        "the {stage}loader gave no batch for {after} seconds: a sample hangs, or the disk is slow; "
        "set data.num_workers=0 to see where"
    ),
    r"EMFILE|ENFILE|Too many open files|items of ancdata": (
        "too many open files; run ulimit -n 65536, then the command"
    ),
    r"ENOSPC|EDQUOT|EFBIG|No space left on device|Disk quota exceeded": (
        "no space left for {file}; make room{resume}"
    ),
    r"EROFS|Read-only file system": "{file}: its disk is read-only; write to another",
    r"EIO|Input/output error": "{file}: its disk failed (input/output error); use another{resume}",
    r"ENOLCK|No locks available": (
        "{file}: its file system has no locks; let logs/ be a link to a folder on a local disk"
    ),
    r"EACCES|EPERM": "{file}: this user may not open or write it; ls -ld shows who may",
    r"(?P<why>Early stopping conditioned on metric .*)": "callbacks: {why}",
    r"has parameters that were not used in producing the loss": (
        "trainer.strategy: a training step leaves parameters without a gradient; set "
        "trainer.strategy=ddp_find_unused_parameters_true"
    ),
    r"gloo/transport|NCCL|nccl|Dist(Backend|Network|Store)Error": (
        "another process ended; see its output for the cause{resume}"
    ),
    r"grad can be implicitly created only for scalar outputs": (
        "task: the loss is not one number; return its mean{reduction}"
    ),
    r"does not require grad and does not have a grad_fn": (
        "task: the loss has no gradient; it was detached, or computed under torch.no_grad"
    ),
    r"merging hparams: the keys \[(?P<why>.+?)\]": (
        "task: task and data both save the hyperparameter {why}, with different values; "
        "call save_hyperparameters(logger=False) in one of them"
    ),
    r"(?P<why>Training with multiple optimizers is only supported.*)": "task: {why}",
    r"(?P<why>You provided multiple `.*`dataloader_idx`.*)": "task: {why}",
    r": (?P<why>(An invalid dataloader was returned|.*not support the `CombinedLoader).*)": (
        "data: {why}"
    ),
    r"^MisconfigurationException : (?P<why>.*(gpu backend|accelerator is not available)[^!.]*)": (
        "trainer: {why}; set trainer.accelerator=auto"
    ),
    r"^(MisconfigurationException : |ValueError : (?=`val_check_int))(?P<why>.*)": "trainer: {why}",
}
STAGES = {"tra": "training ", "val": "validation ", "tes": "test "}
# Errors of a net or a loss for an input that does not fit.
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


def advise(
    error: BaseException, config: Config, run: Run | None = None, stage: str | None = None
) -> str | None:
    """Return a line of advice for an error of the system or a library; None for others.

    `stage` is where it was raised, as Kindling (`val`) or Lightning names it.
    """
    chain: dict[BaseException, str] = {}
    link: BaseException | None = error
    while link is not None and link not in chain:
        name = errorcode.get(getattr(link, "errno", 0), "")
        chain[link] = f"{type(link).__name__} {name}: {' '.join(str(link).split())}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for pattern, advice in HINTS.items():
        for text in chain.values():
            if found := re.search(pattern, text):
                facts = _facts(text, config, run) | found.groupdict()
                return advice.format(stage=STAGES.get((stage or "")[:3], ""), **facts)
    return None


def _facts(text: str, config: Config, run: Run | None) -> dict[str, str]:
    peak, resume, file, reduction = "", "", "the run", ""
    task = get(config.values, "task._target_")
    if task and "loss" in parameters(locate(task)):
        reduction = " (task.loss.reduction)"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        peak = f" (it held {torch.cuda.max_memory_allocated() / 2**30:,.1f} GiB at its peak)"
    if run is not None and any(run.checkpoints.glob("*.ckpt")):
        command = f"python -m src.train --resume {shlex.quote(display_path(run.path))}"
        resume = f"; the last whole checkpoint is kept: {command}"
    if named := re.search(r"\[Errno \d+\] [^:\n]+: '(.+)'", text):
        file = display_path(Path(named[1]))
    elif run:
        file = display_path(run.path)
    facts = {"peak": peak, "resume": resume, "file": file, "reduction": reduction}
    return facts | {"less": _smaller_batch(config)}


def _smaller_batch(config: Config) -> str:
    """Return the advice to halve the batch at the same effective batch size."""
    target = get(config.values, "data._target_")
    default = parameters(locate(target)).get("batch_size") if target else None
    batch = get(config.values, "data.batch_size") or getattr(default, "default", None)
    steps = get(config.values, "trainer.accumulate_grad_batches") or 1
    if not (isinstance(batch, int) and isinstance(steps, int) and batch > 1):
        return "set a smaller data.batch_size"
    return (
        f"data.batch_size={batch} → data.batch_size={batch // 2} "
        f"trainer.accumulate_grad_batches={2 * steps} keeps the effective batch"
    )


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
