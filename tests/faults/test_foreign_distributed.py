"""Foreign modules in two processes, on one machine or two, of which all or one are killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.kindling.config.compose import ROOT
from tests.foreign.kill_runs import differences, ending

pytestmark = pytest.mark.long
WORDS = ("samplers", "num_threads=1", "--no-plots", "checkpoint_minutes=0")
ONE_NODE = ("trainer.strategy=ddp", "trainer.devices=2")
TWO_NODES = ("trainer.strategy=ddp", "trainer.devices=1", "trainer.num_nodes=2")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launchers(nodes: int) -> Iterator[list[str]]:
    """What starts the training on each machine; for one, Lightning starts the second process."""
    address = f"--master_addr=127.0.0.1 --master_port={free_port()}".split()
    for node in range(nodes):
        torchrun = ["-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node_rank={node}"]
        torchrun += [*address, "--nproc_per_node=1"]
        yield [sys.executable, "-W", "ignore", *(torchrun if nodes > 1 else [])]


def drive(nodes: int, logs: Path, *words: str) -> tuple[list[int], str]:
    """Train, and return the status of each machine, and what they printed.

    Processes that hang end themselves, see `tests.foreign.drive`.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*launcher, "-m", "tests.foreign.drive", str(logs), *words],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for launcher in launchers(nodes)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


@pytest.mark.parametrize(
    ("sampler", "nodes", "kill"),
    [
        ("distributed", 1, "11"),
        ("distributed", 1, "3@1"),
        ("own_generator", 1, "11@0"),
        ("own_generator", 2, "11@1"),
        ("subset", 2, "6"),  # each process has its own `val_loss`, and may find another one best
    ],
)
def test_killed_distributed_training_resumes_exactly(
    sampler: str, nodes: int, kill: str, tmp_path: Path
) -> None:
    words = [*WORDS, *(ONE_NODE if nodes == 1 else TWO_NODES), f"data.sampler={sampler}"]
    whole, other = tmp_path / "whole", tmp_path / "killed"
    statuses, output = drive(nodes, whole, "train", *words)
    assert statuses == [0] * nodes, output
    statuses, output = drive(nodes, other, "--kill", kill, "train", *words)
    assert 0 not in statuses, output
    (path,) = (other / "samplers").iterdir()
    statuses, output = drive(nodes, other, "train", "--resume", str(path), "--no-plots")
    assert statuses == [0] * nodes, output
    assert re.search(r"\nresumed: .*, epoch [12], batch \d+ ", output), output
    found = differences(ending(whole), ending(other))
    assert not found, "\n".join(found[:3])
