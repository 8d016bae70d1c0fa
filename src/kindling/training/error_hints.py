"""Turns what libraries, the system and other processes throw during a training into one line of advice."""

from __future__ import annotations

import re
import sys
from errno import errorcode
from pathlib import Path

from src.kindling.config.compose import Config, get
from src.kindling.config.targets import locate, parameters
from src.kindling.runs.files import shown
from src.kindling.runs.run import Run

# What an error reads as (class, system's name, message), and what to say: the first row that fits it or one of its causes.
TABLE = (
    (r"^OutOfMemoryError|(CUDA|MPS backend) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
     "the GPU has no memory left{peak}; {less}"),
    (r"DefaultCPUAllocator: (can't allocate|not enough) memory|^\w*MemoryError", "the machine has no memory left; {less}"),
    (r"Bus error|(shared memory|/torch_\w+>).*No space", "the shared memory (/dev/shm) of the data's workers is full; "
     "data.num_workers=0, a smaller data.batch_size, or more of it (docker: --shm-size)"),
    (r"DataLoader worker .* killed by signal: Killed", "the system killed a data worker, most likely because memory ran out; "
     "fewer data.num_workers or a smaller data.batch_size take less"),
    (r"DataLoader worker .* signal: (?P<why>[\w ]+)", "a data worker crashed ({why}); data.num_workers=0 shows where"),
    (r"DataLoader worker .* exited unexpectedly", "a data worker ended by itself; data.num_workers=0 shows where"),
    (r"DataLoader timed out after (?P<after>[\d.]+) seconds", "the {stage}loader gave no batch for {after} seconds: a sample "
     "that hangs, or a slow disk; data.num_workers=0 shows where"),
    (r"EMFILE|ENFILE|Too many open files|items of ancdata", "too many open files; ulimit -n 65536, then the command"),
    (r"ENOSPC|EDQUOT|EFBIG|No space left on device|Disk quota exceeded", "no space left for {file}; make room{go_on}"),
    (r"EROFS|Read-only file system", "{file}: its disk can only be read; write to another"),
    (r"EACCES|EPERM", "{file}: this user may not open or write it; ls -ld shows who may"),
    (r"gloo/transport|NCCL|nccl|Dist(Backend|Network|Store)Error", "another process is gone; its output says why{go_on}"),
)  # fmt: skip


def advise(error: BaseException, config: Config, run: Run | None = None, stage: str | None = None) -> list[str] | None:
    """A line on what to do about an error of the system or a library; None where only its traceback tells.

    It came in a training of this (checked) config that leaves this run, in this stage: ours (`val`) or Lightning's word.
    """
    links: dict[BaseException, str] = {}
    link: BaseException | None = error
    while link is not None and link not in links:
        links[link] = f"{type(link).__name__} {errorcode.get(getattr(link, 'errno', 0), '')}: {link}"
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for pattern, advice in TABLE:
        for link, text in links.items():
            if found := re.search(pattern, text):
                return [advice.format(**_facts(link, config, run, stage), **found.groupdict())]
    return None


def _facts(error: BaseException, config: Config, run: Run | None, stage: str | None) -> dict[str, str]:
    size = parameters(locate(get(config.values, "data._target_"))).get("batch_size")
    batch, less = get(config.values, "data.batch_size") or getattr(size, "default", None), "a smaller data.batch_size"
    steps = get(config.values, "trainer.accumulate_grad_batches") or 1
    if isinstance(batch, int) and isinstance(steps, int) and batch > 1:
        less = (f"data.batch_size={batch} → data.batch_size={batch // 2} trainer.accumulate_grad_batches={2 * steps} keeps "
                "the effective batch")  # fmt: skip
    torch, peak, go_on = sys.modules.get("torch"), "", ""
    if torch is not None and torch.cuda.is_initialized():
        peak = f" (it held {torch.cuda.max_memory_allocated() / 2**30:,.1f} GiB at its peak)"
    if run is not None and any(run.checkpoints.glob("*.ckpt")):
        go_on = f"; the last whole checkpoint is kept: python -m src.train --resume {shown(run.path)}"
    named = re.search(r"\[Errno \d+\] [^:\n]+: '(.+)'", str(error))  # a worker hands on its error as text
    file = shown(Path(named[1])) if named else shown(run.path) if run else "the run"
    word = {"tra": "training ", "val": "validation ", "tes": "test "}.get((stage or "")[:3], "")
    return {"less": less, "peak": peak, "go_on": go_on, "file": file, "stage": word}
