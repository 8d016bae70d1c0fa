"""Real processes that are killed, stopped by signals, doubled and starved, as on a machine that others use as well."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.kindling.config.compose import ROOT
from src.kindling.runs.run import Run
from tests.faults.test_exact import ending
from tests.forked import ForkedProcess, run_forked

WORDS = (
    "digits",
    "trainer.max_epochs=4",
    "num_threads=1",
    "trainer.accelerator=cpu",
    "net.dropout=0.2",
    "checkpoint_minutes=0",
    "trainer.val_check_interval=0.5",
    "trainer.log_every_n_steps=3",
)

Process = ForkedProcess | subprocess.Popen[str]


def longer(*cases: Any, short: int = 1) -> list[Any]:
    """Test cases of which only the first few belong to the short suite."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if i < short else pytest.mark.long,
        )
        for i, case in enumerate(cases)
    ]


def start(repository: Path, *words: str, env: dict[str, str] | None = None) -> ForkedProcess:
    """`python -m src.train …` in a copy of the repository, a process group of its own."""
    return ForkedProcess("-m", "src.train", "--no-plots", *words, cwd=repository, env=env)


def until(process: Process, found: Callable[[str], bool]) -> list[str]:
    """The lines of a process up to the first that is looked for."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found(line):
            return lines
    raise AssertionError("".join(lines))


def killed(process: Process) -> None:
    """End a process and all that it started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def the_run(repository: Path) -> Run:
    (path,) = (repository / "logs" / "digits").iterdir()
    return Run(path)


def finished(repository: Path, *words: str) -> Run:
    process = start(repository, *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return the_run(repository)


@pytest.fixture(scope="module")
def whole_endings() -> dict[int, dict[str, str]]:
    """What the training that is never killed leaves, by its workers; made once."""
    return {}


@pytest.mark.parametrize(
    ("workers", "attempt"), longer(*((w, n) for n in range(20) for w in (0, 2)), short=0)
)
def test_killed_at_random_moments_ends_the_same(
    workers: int,
    attempt: int,
    repository: Path,
    tmp_path: Path,
    whole_endings: dict[int, dict[str, str]],
) -> None:
    words = (*WORDS, f"data.num_workers={workers}")
    if workers:
        words += (
            "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}]",
        )
    if workers not in whole_endings:
        whole_endings[workers] = ending(finished(repository, *words))
        (repository / "logs").rename(tmp_path / "whole")
    chance, kills = random.Random(10 * attempt + workers), 0
    process = start(repository, *words)
    while True:
        try:
            until(process, lambda line: line.startswith(("speed: ", "logs/")))
            # Within the training, or after it; in the end it is left alone, however slow the machine is.
            output, _ = process.communicate(
                timeout=chance.uniform(0, 3) if kills < (6 if attempt else 3) else None
            )
            break
        except subprocess.TimeoutExpired:
            killed(process)
            kills += 1
            process = start(repository, "--resume", "digits/latest")
    run = the_run(repository)
    # Killed after its last line was written, it is complete.
    assert (
        process.returncode == 0
        or json.loads((run.path / "run.json").read_text())["status"] == "finished"
    ), output
    assert ending(run) == whole_endings[workers], f"{kills} kills"


# Kills itself at the end of its n-th batch.
KILLED = """
import os, signal, sys
from src.kindling.training.run_loggers import Curves
end, left = Curves.on_train_batch_end, [int(sys.argv.pop(1))]
def killed(self, *args):
    end(self, *args)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Curves.on_train_batch_end = killed
from src.kindling.config.command import run_command
from src.train import main
run_command(main)
"""


@pytest.mark.long
def test_killed_on_last_batch_of_epoch(
    repository: Path, tmp_path: Path, whole_endings: dict[int, dict[str, str]]
) -> None:
    if 0 not in whole_endings:
        whole_endings[0] = ending(finished(repository, *WORDS, "data.num_workers=0"))
        (repository / "logs").rename(tmp_path / "whole")
    (repository / "killed.py").write_text(KILLED)
    begin = (*WORDS, "data.num_workers=0", "checkpoint_minutes=1000")
    again = ("--resume", "latest")
    # An epoch has 20 batches: its last one; seven of the next; the rest of that and all of another; to the end.
    for batches, words, status in ((20, begin, -9), (7, again, -9), (40, again, -9), (0, again, 0)):
        ended = run_forked("killed.py", str(batches), "--no-plots", *words, cwd=repository)
        assert ended.returncode == status, ended.stdout + ended.stderr
    assert ending(the_run(repository)) == whole_endings[0]


@pytest.mark.long
def test_two_resumes_at_once(repository: Path) -> None:
    finished(repository, *WORDS[:5], "trainer.max_epochs=1")
    both = [
        start(repository, "--resume", "latest", "trainer.max_epochs=100", "--override")
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], outputs
    (refused,) = (
        output for output, process in zip(outputs, both, strict=True) if process.returncode
    )
    (other,) = (process.pid for process in both if not process.returncode)
    assert f"is being trained by process {other} on {os.uname().nodename}; wait for it" in refused
    assert json.loads((the_run(repository).path / "meta.json").read_text())["epochs"] == 100


@pytest.mark.long
def test_running_run_is_locked(repository: Path) -> None:
    first = start(repository, *WORDS, "trainer.max_epochs=200")
    until(first, lambda line: line.startswith("epoch 1/"))
    second = start(repository, "--resume", "latest", "trainer.max_epochs=300", "--override")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    host = os.uname().nodename
    run = the_run(repository).path.name
    assert output.endswith(
        f"logs/digits/{run}: is being trained by process {first.pid} on {host}; wait for it, or "
        "stop it\n"
    )
    killed(first)
    third = start(repository, "--resume", "latest", "trainer.max_epochs=4", "--override")
    output, _ = third.communicate(timeout=60)
    assert third.returncode in (0, 2), output  # it may have done more than four epochs
    assert "is being trained" not in output


CLAIM = """
import sys
from pathlib import Path
from src.kindling.runs import run
run.LOGS = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
print(run.Run.claim("digits").path)
"""


def test_claims_at_once(tmp_path: Path) -> None:
    (tmp_path / "claim.py").write_text(CLAIM)
    options: Any = {"cwd": tmp_path, "env": {"PYTHONPATH": str(ROOT)}}
    processes = [ForkedProcess("claim.py", str(tmp_path / "logs"), **options) for _ in range(16)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    paths = [process.communicate(timeout=60)[0] for process in processes]
    assert len(set(paths)) == 16
    assert all(process.returncode == 0 for process in processes)


@pytest.mark.long
def test_four_trainings_at_once(repository: Path) -> None:
    processes = [start(repository, *WORDS, f"seed={seed}") for seed in range(4)]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    runs = list((repository / "logs" / "digits").iterdir())
    assert sorted(json.loads((run / "meta.json").read_text())["seed"] for run in runs) == [
        0,
        1,
        2,
        3,
    ]
    assert all(len(list(run.glob("events*"))) == 1 for run in runs)


SAVING = """
import sys, torch
from pathlib import Path
from src.kindling.training.checkpoint_io import AtomicIO
path, io, number = Path(sys.argv[1]), AtomicIO(), 0
while True:
    number += 1
    weights = {"weight": torch.full((2_000_000,), float(number))}
    own = {"name": "digits", "config": {}, "spec": {}}
    io.save_checkpoint({"kindling": own, "number": number, "state_dict": weights}, path)
    print(number, flush=True)
"""


@pytest.mark.parametrize("attempt", longer(*range(40)))
def test_killed_while_saving_leaves_whole_file(
    attempt: int, repository: Path, tmp_path: Path
) -> None:
    from src.kindling.runs.checkpoint_file import read_checkpoint

    path, other = (
        tmp_path / "last.ckpt",
        Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path,
    )
    (repository / "saving.py").write_text(SAVING)
    process = ForkedProcess("saving.py", str(path), cwd=repository, env={"TMPDIR": str(other)})
    until(process, lambda line: line.startswith("2"))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(random.Random(attempt).uniform(0, 0.1))
    killed(process)
    content = read_checkpoint(path)
    assert bool((content["state_dict"]["weight"] == content["number"]).all())


def ranks(process: Process) -> list[int]:
    """The processes of a distributed training, its first one first."""
    found = subprocess.run(
        ["pgrep", "-g", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    return [process.pid, *(int(number) for number in found if int(number) != process.pid)]


@pytest.mark.parametrize(
    ("number", "to"),
    longer(
        (signal.SIGTERM, 1),
        (signal.SIGTERM, 0),
        (signal.SIGTERM, -1),
        (signal.SIGINT, -1),
        (signal.SIGKILL, 0),
        (signal.SIGKILL, 1),
        short=0,
    ),
)
def test_ranks_end_together(number: int, to: int, repository: Path) -> None:
    words = (
        "digits",
        "trainer.strategy=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "num_threads=1",
        "trainer.max_epochs=200",
        "checkpoint_minutes=1000",
    )
    process = start(repository, *words)
    until(process, lambda line: line.startswith("epoch 2/"))
    both = ranks(process)
    assert len(both) == 2
    sent = time.monotonic()
    os.killpg(process.pid, number) if to < 0 else os.kill(both[to], number)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    assert process.returncode == (
        128 + number if number != signal.SIGKILL else -9 if to == 0 else 1
    ), output
    if number == signal.SIGKILL:
        assert "--resume logs/digits/" in output
    else:
        assert output.count(f"{signal.Signals(number).name}: stopped; to resume: ") == 1
    content = torch.load(the_run(repository).checkpoints / "last.ckpt", weights_only=True)
    again = start(
        repository, "--resume", "latest", f"trainer.max_epochs={content['epoch'] + 2}", "--override"
    )
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert output.count("resumed: ") == 1
    assert output.count("accuracy ") >= 1
