"""Hints for errors of libraries and the system: real errors where possible, and each text."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.kindling.config.compose import Config
from src.kindling.runs.run import Run
from src.kindling.training.error_hints import advise
from tests.conftest import checked

LESS = (
    "data.batch_size=64 → data.batch_size=32 trainer.accumulate_grad_batches=2 "
    "keeps the effective batch"
)


@pytest.fixture(scope="module")
def config() -> Config:
    return checked("digits")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has saved a checkpoint."""
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "last.ckpt").touch()
    return run


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what the test is about
        call()
    return caught.value


class Does(Dataset[Tensor]):
    """One sample; to read it does something first."""

    def __init__(self, what: Callable[[], Any]) -> None:
        self.what = what

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        self.what()
        return torch.zeros(1)


def worker(what: Callable[[], Any], **options: Any) -> BaseException:
    """What a loader raises whose worker does that."""
    loading = iter(DataLoader(Does(what), num_workers=1, **options))
    error = raised(lambda: next(loading))
    loading._shutdown_workers()  # type: ignore[attr-defined]  # else a later worker inherits its pipes
    return error


# --------------------------------------------------------------------------------------------------
# Workers


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "the system killed a data worker, most likely for lack of memory; set fewer "
            "data.num_workers or a smaller data.batch_size",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGBUS),
            "the shared memory (/dev/shm) of the data workers is full; set data.num_workers=0 or a "
            "smaller data.batch_size, or add shared memory (docker: --shm-size)",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "a data worker crashed (Segmentation fault); set data.num_workers=0 to see where",
        ),
        (lambda: os._exit(3), "a data worker exited; set data.num_workers=0 to see where"),
    ],
)
def test_hint_for_ended_worker(what: Callable[[], Any], line: str, config: Config) -> None:
    assert advise(worker(what), config) == line


def test_hint_for_hanging_worker(config: Config) -> None:
    ends, hangs = os.pipe()

    def wait() -> None:
        os.close(hangs)
        os.read(ends, 1)  # until the error has been raised
        os._exit(0)  # the loader would wait for its end, for 5 s

    loading = iter(DataLoader(Does(wait), num_workers=1, timeout=0.2))
    with pytest.raises(RuntimeError) as caught:
        next(loading)
    os.close(hangs)
    loaders = [
        ("train", "training loader"),
        ("val", "validation loader"),
        (RunningStage.VALIDATING, "validation loader"),
        ("test", "test loader"),
        (None, "loader"),
    ]
    for stage, loader in loaders:
        assert advise(caught.value, config, stage=stage) == (
            f"the {loader} gave no batch for 0.2 seconds: a sample hangs, or the disk is "
            "slow; set data.num_workers=0 to see where"
        )
    loading._shutdown_workers()
    os.close(ends)


def test_hint_for_full_disk_in_worker(config: Config, run: Run) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/pack.bin")

    assert advise(worker(full), config, run) == (
        "no space left for /cache/pack.bin; make room; the last whole checkpoint is kept: python "
        "-m src.train --resume "
        f"{run.path}"
    )


@pytest.mark.parametrize(
    "message",
    [
        "unable to write to file </torch_212_3402>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_212_3402>: No space left on device "
        "(28)",
    ],
)
def test_full_shared_memory_is_no_full_disk(message: str, config: Config) -> None:
    line = advise(RuntimeError(message), config) or ""
    assert line.startswith("the shared memory (/dev/shm) of the data workers is full; ")


def test_hint_for_a_loss_per_sample_names_arguments_of_the_task(config: Config) -> None:
    error = RuntimeError("grad can be implicitly created only for scalar outputs")
    line = "task: the loss is not one number; return its mean"
    assert advise(error, config) == f"{line} (task.loss.reduction)"
    assert advise(error, checked("vae")) == line


# --------------------------------------------------------------------------------------------------
# Memory


def test_hint_for_gpu_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config, error = (
        checked("digits"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    )
    assert advise(error, config) == f"the GPU has no memory left; {LESS}"
    assert advise(RuntimeError("CUDA error: out of memory"), config) == (
        f"the GPU has no memory left; {LESS}"
    )
    words = ("data.batch_size=50", "trainer.accumulate_grad_batches=3")
    accumulated = checked("digits", *words)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10.25 * 2**30)
    assert advise(error, accumulated) == (
        "the GPU has no memory left (it held 10.2 GiB at its peak); data.batch_size=50 → "
        "data.batch_size=25 "
        "trainer.accumulate_grad_batches=6 keeps the effective batch"
    )
    monkeypatch.undo()
    assert advise(error, checked("digits", "data.batch_size=1")) == (
        "the GPU has no memory left; set a smaller data.batch_size"
    )


def test_hint_for_out_of_memory(config: Config) -> None:
    line = f"the machine has no memory left; {LESS}"
    assert advise(raised(lambda: torch.empty(1 << 50)), config) == line
    assert advise(raised(lambda: np.empty(1 << 60, np.uint8)), config) == line
    assert advise(MemoryError(), config) == line


# --------------------------------------------------------------------------------------------------
# Files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_hint_for_full_disk(config: Config, run: Run) -> None:
    def save() -> None:
        with Path("/dev/full").open("wb") as file:
            torch.save({"weights": torch.zeros(100_000)}, file)

    error = raised(save)
    assert advise(error, config, run) == (
        f"no space left for {run.path}; make room; the last whole checkpoint is kept: python -m "
        f"src.train --resume {run.path}"
    )
    (run.checkpoints / "last.ckpt").unlink()
    assert advise(error, config, run) == f"no space left for {run.path}; make room"
    assert advise(error, config) == "no space left for the run; make room"


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EDQUOT, "no space left for /runs/x; make room"),
        (errno.EIO, "/runs/x: its disk failed (input/output error); use another"),
        (errno.EROFS, "/runs/x: its disk is read-only; write to another"),
        (
            errno.ENOLCK,
            "/runs/x: its file system has no locks; let logs/ be a link to a folder on a local disk",
        ),
        (errno.EACCES, "/runs/x: this user may not open or write it; ls -ld shows who may"),
    ],
)
def test_hint_for_unwritable_file(number: int, line: str, config: Config) -> None:
    assert advise(OSError(number, os.strerror(number), "/runs/x"), config) == line


def test_too_many_open_files(config: Config) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[Any] = []

    def open_many() -> None:
        while True:
            files.append(Path(os.devnull).open())  # noqa: SIM115  # they stay open on purpose

    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        error = raised(open_many)
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    line = "too many open files; run ulimit -n 65536, then the command"
    assert advise(error, config) == line
    assert advise(RuntimeError("received 0 items of ancdata"), config) == line


# --------------------------------------------------------------------------------------------------
# Other processes, and what is nobody's to advise on


@pytest.mark.parametrize(
    "error",
    [
        # What gloo says on Linux when the other process has ended.
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer "
            "[127.0.0.1]:38029. This is typically caused by a remote worker crashing."
        ),
        torch.distributed.DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited"
        ),
        torch.distributed.DistStoreError(
            "Timed out after 2 seconds waiting for clients. 1/2 clients joined."
        ),
    ],
)
def test_hint_for_lost_process(error: Exception, config: Config, run: Run) -> None:
    assert advise(error, config, run) == (
        "another process ended; see its output for the cause; the last whole checkpoint is kept: python "
        "-m src.train --resume "
        f"{run.path}"
    )


def test_hint_for_parameters_without_gradient(config: Config) -> None:
    message = (  # of Lightning 2.6.6
        "It looks like your LightningModule has parameters that were not used in producing the loss returned"
        " by training_step. If this is intentional, you must enable the detection of unused parameters in DDP"
    )
    assert advise(RuntimeError(message), config) == (
        "trainer.strategy: a training step leaves parameters without a gradient; set "
        "trainer.strategy=ddp_find_unused_parameters_true"
    )


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("no"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        ConnectionResetError(104, "x"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        AssertionError(),
    ],
)
def test_bug_keeps_traceback(error: Exception, config: Config, run: Run) -> None:
    assert advise(error, config, run, "train") is None


def test_causes_are_looked_at(config: Config) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/a")

    def because(from_what: BaseException | None) -> BaseException:
        def call() -> None:
            try:
                raise full
            except OSError:
                if from_what is full:
                    raise RuntimeError("failed writing") from full
                if from_what is None:
                    raise RuntimeError("failed writing") from None
                raise RuntimeError("failed writing")  # noqa: B904

        return raised(call)

    assert advise(because(full), config) == "no space left for /a; make room"
    assert advise(because(KeyError()), config) == "no space left for /a; make room"
    assert advise(because(None), config) is None
    circle = RuntimeError("x")
    circle.__cause__ = circle
    assert advise(circle, config) is None
