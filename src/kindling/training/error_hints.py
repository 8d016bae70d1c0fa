"""Turn errors of libraries, the system and other processes into one line of advice."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from errno import errorcode
from pathlib import Path

from src.kindling.config.compose import Config, get
from src.kindling.config.targets import locate, parameters
from src.kindling.runs.files import shown
from src.kindling.runs.run import Run


@dataclass(frozen=True)
class Hint:
    """A line of advice for errors whose `class errno-name: message` matches a pattern.

    Named groups of the pattern, and the values of `_facts`, fill the advice's fields.
    """

    pattern: str
    advice: str


# The first hint that matches the error or one of its causes is given.
HINTS = (
    Hint(
        r"^OutOfMemoryError|(CUDA|MPS backend) out of memory|CUDA error: out of memory"
        r"|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU has no memory left{peak}; {less}",
    ),
    Hint(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|^\w*MemoryError",
        "the machine has no memory left; {less}",
    ),
    Hint(
        r"Bus error|(shared memory|/torch_\w+>).*No space",
        "the shared memory (/dev/shm) of the data's workers is full; "
        "data.num_workers=0, a smaller data.batch_size, or more of it (docker: --shm-size)",
    ),
    Hint(
        r"DataLoader worker .* killed by signal: Killed",
        "the system killed a data worker, most likely because memory ran out; "
        "fewer data.num_workers or a smaller data.batch_size take less",
    ),
    Hint(
        r"DataLoader worker .* signal: (?P<why>[\w ]+)",
        "a data worker crashed ({why}); data.num_workers=0 shows where",
    ),
    Hint(
        r"DataLoader worker .* exited unexpectedly",
        "a data worker ended by itself; data.num_workers=0 shows where",
    ),
    Hint(
        r"DataLoader timed out after (?P<after>[\d.]+) seconds",
        "the {stage}loader gave no batch for {after} seconds: a sample "
        "that hangs, or a slow disk; data.num_workers=0 shows where",
    ),
    Hint(
        r"EMFILE|ENFILE|Too many open files|items of ancdata",
        "too many open files; ulimit -n 65536, then the command",
    ),
    Hint(
        r"ENOSPC|EDQUOT|EFBIG|No space left on device|Disk quota exceeded",
        "no space left for {file}; make room{resume}",
    ),
    Hint(
        r"EROFS|Read-only file system",
        "{file}: its disk can only be read; write to another",
    ),
    Hint(
        r"EACCES|EPERM",
        "{file}: this user may not open or write it; ls -ld shows who may",
    ),
    Hint(
        r"gloo/transport|NCCL|nccl|Dist(Backend|Network|Store)Error",
        "another process is gone; its output says why{resume}",
    ),
)
STAGES = {"tra": "training ", "val": "validation ", "tes": "test "}


def advise(
    error: BaseException, config: Config, run: Run | None = None, stage: str | None = None
) -> list[str] | None:
    """Return a line on what to do about an error of the system or a library.

    Args:
        error: of a training.
        config: its checked config.
        run: its run.
        stage: in which it was raised, as Kindling (`val`) or Lightning names it.

    Returns:
        None where only the traceback helps.
    """
    chain: dict[BaseException, str] = {}
    link: BaseException | None = error
    while link is not None and link not in chain:
        name = errorcode.get(getattr(link, "errno", 0), "")
        chain[link] = f"{type(link).__name__} {name}: {link}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for hint in HINTS:
        for link, text in chain.items():
            if found := re.search(hint.pattern, text):
                return [hint.advice.format(**_facts(link, config, run, stage), **found.groupdict())]
    return None


def _facts(
    error: BaseException, config: Config, run: Run | None, stage: str | None
) -> dict[str, str]:
    torch, peak, resume = sys.modules.get("torch"), "", ""
    if torch is not None and torch.cuda.is_initialized():
        peak = f" (it held {torch.cuda.max_memory_allocated() / 2**30:,.1f} GiB at its peak)"
    if run is not None and any(run.checkpoints.glob("*.ckpt")):
        resume = (
            f"; the last whole checkpoint is kept: python -m src.train --resume {shown(run.path)}"
        )
    # A worker passes its error on as text.
    named = re.search(r"\[Errno \d+\] [^:\n]+: '(.+)'", str(error))
    file = shown(Path(named[1])) if named else shown(run.path) if run else "the run"
    return {
        "less": _smaller_batch(config),
        "peak": peak,
        "resume": resume,
        "file": file,
        "stage": STAGES.get((stage or "")[:3], ""),
    }


def _smaller_batch(config: Config) -> str:
    """Return the advice to halve the batch at the same effective batch size."""
    target = get(config.values, "data._target_")
    default = parameters(locate(target)).get("batch_size") if target else None
    batch = get(config.values, "data.batch_size") or getattr(default, "default", None)
    steps = get(config.values, "trainer.accumulate_grad_batches") or 1
    if not (isinstance(batch, int) and isinstance(steps, int) and batch > 1):
        return "a smaller data.batch_size"
    return (
        f"data.batch_size={batch} → data.batch_size={batch // 2} "
        f"trainer.accumulate_grad_batches={2 * steps} keeps the effective batch"
    )
