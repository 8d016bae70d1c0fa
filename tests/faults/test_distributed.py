"""One training in two processes: the weights of one process with the doubled batch, one run directory, each sample once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.runs.run import Run
from tests.conftest import call, train
from tests.faults.test_processes import Process, the_run, until
from tests.forked import ForkedProcess

# Eight whole batches: the last one of an epoch is not the same for one process and for two.
WORDS = (
    "digits",
    "net=mlp",
    "num_threads=1",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "data.split=[1255,271,271]",
    "trainer.limit_train_batches=8",
    "task.optimizer._target_=torch.optim.SGD",
    "task.optimizer.lr=0.1",
)
DDP = ("trainer=ddp", "data.batch_size=64", "--no-plots")


def begun(repository: Path, launcher: tuple[str, ...], *words: str) -> Process:
    """A distributed training in a copy of the repository; the first process is a fork."""
    command = (*launcher, "-m", "src.train", *WORDS, *DDP, *words)
    return ForkedProcess(*command, cwd=repository, env={"OMP_NUM_THREADS": "1"})


TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--nproc_per_node=2",
    "--rdzv_backend=c10d",
    "--rdzv_endpoint=localhost:0",
)


def by_slurm(repository: Path) -> tuple[int, str]:
    """Two processes with the variables that SLURM gives to each; their worst status and what they said."""
    job = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "4711",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_JOB_NAME": "train",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "src.train", *WORDS, *DDP, "trainer.devices=2"]
    both = [
        subprocess.Popen(
            command,
            cwd=repository,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    return max(process.returncode for process in both), "".join(outputs)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in run.checkpoint["state_dict"].items()
        if name.startswith("net.")
    }


@pytest.mark.parametrize(
    "by", ["lightning", *(pytest.param(by, marks=pytest.mark.long) for by in ("torchrun", "slurm"))]
)
def test_two_processes_match_doubled_batch(by: str, repository: Path) -> None:
    if by == "slurm":
        status, output = by_slurm(repository)
    else:
        process = begun(
            repository, *((TORCHRUN,) if by == "torchrun" else ((), "trainer.devices=2"))
        )
        output, _ = process.communicate(timeout=120)
        status = process.returncode
    assert status == 0, output
    two = the_run(repository)
    assert output.count("digits: MLP with") == 1
    one = train(
        *WORDS,
        "trainer.limit_val_batches=1.0",
        "trainer.limit_test_batches=1.0",
        "data.batch_size=128",
    ).run
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-6, rtol=0)
    # Odd numbers of samples: a duplicate that fills up the second process's share would count.
    assert "1,255 train, 271 val, 271 test" in output
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, abs=1e-5), name
    again = call("evaluate", str(two.path))
    assert again == pytest.approx(two.metrics, abs=1e-6)


@pytest.mark.long
def test_killed_torchrun_resumes_in_same_order(repository: Path) -> None:
    words = (
        "trainer.max_epochs=3",
        "checkpoint_minutes=0",
        "net.dropout=0.2",
        "data.batch_size=8",
        "trainer.limit_train_batches=60",
    )
    process = begun(repository, TORCHRUN, *words)
    until(process, lambda line: line.startswith("epoch 1/"))
    last = the_run(repository).checkpoints / "last.ckpt"
    # Within an epoch: what each process has measured of it so far is its own.
    while not 5 <= read_checkpoint(last)["kindling"]["resume"]["batch"] < 40:
        pass
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "src.train digits"], capture_output=True, text=True
    )
    os.kill(max(int(number) for number in found.stdout.split()), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    broken = the_run(repository)
    again = [sys.executable, *TORCHRUN, "-m", "src.train", "--resume", "latest", "--no-plots"]
    done = subprocess.run(
        again,
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert re.search("\nresumed: logs/digits/.*, epoch [23], batch [0-9]+ ", done.stdout), (
        done.stdout + done.stderr
    )
    assert done.returncode == 0
    broken.path.rename(repository / "broken")
    process = begun(repository, TORCHRUN, *words)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    whole, broken = the_run(repository), Run(repository / "broken")
    assert all(torch.equal(value, weights(broken)[name]) for name, value in weights(whole).items())
    assert (whole.path / "metrics.csv").read_text() == (broken.path / "metrics.csv").read_text()
    assert whole.metrics == broken.metrics
