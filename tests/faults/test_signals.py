"""Signals to real processes, in every phase of a training: the step is ended, all is saved, the status is 128 + n."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.faults.test_processes import WORDS, longer, start, the_run, until
from tests.forked import ForkedProcess

# By phase: a method, how often it is called before the moment (once each in the trial before the first step), the place
# that is saved, and its step; no place where nothing was trained yet, and no step where there is no run yet.
PHASES = {
    "loading": ("src.kindling.data.data_module:DataModule.setup", 1, None, None),
    # The first time is within the rehearsal.
    "building": ("src.tasks.classification:Classification.configure_optimizers", 2, None, 0),
    "beginning": (
        "src.kindling.training.callbacks.checkpoint:Checkpoint.on_train_start",
        1,
        None,
        0,
    ),
    "training": ("src.tasks.classification:Classification.training_step", 4, "after a step", 3),
    "saving": (
        "src.kindling.training.checkpoint_io:AtomicIO.save_checkpoint",
        1,
        "after a step",
        11,
    ),
    "validating": (
        "src.tasks.classification:Classification.validation_step",
        4,
        "before validation",
        10,
    ),
    "between epochs": (
        "src.kindling.training.seeding:Seeding.on_train_epoch_end",
        1,
        "between epochs",
        20,
    ),
    "testing": ("src.tasks.classification:Classification.test_step", 4, "between epochs", 80),
}
# Has that moment announce itself, so that a signal can be sent within it.
ANNOUNCING = """
import importlib, sys, time
place, count = sys.argv.pop(1), int(sys.argv.pop(1))
module, _, name = place.partition(":")
owner, name = getattr(importlib.import_module(module), name.partition(".")[0]), name.partition(".")[2]
method, seen = getattr(owner, name), []
def announced(self, *args, **kwargs):
    seen.append(1)
    if len(seen) == count:
        print("now", flush=True)
        time.sleep(0.5)
    return method(self, *args, **kwargs)
setattr(owner, name, announced)
from src.kindling.config.command import run_command
from src.train import main
run_command(main)
"""


def announcing(
    repository: Path, phase: str, *words: str, script: str = ANNOUNCING
) -> ForkedProcess:
    """A training that is in that phase now."""
    (repository / "announcing.py").write_text(script)
    place, count, *_ = PHASES[phase]
    words = ("announcing.py", place, str(count), "--no-plots", *WORDS, *words)
    process = ForkedProcess(*words, cwd=repository)
    until(process, lambda line: line.startswith("now"))
    return process


QUICK = [
    ("training", signal.SIGTERM, True, 2),
]
ALL = [
    (phase, number, group, workers)
    for phase in PHASES
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    for group, workers in ((True, 2), (False, 2), (True, 0))
]


@pytest.mark.parametrize(
    ("phase", "number", "group", "workers"),
    longer(*QUICK, *(case for case in ALL if case not in QUICK), short=len(QUICK)),
)
def test_signal_saves_and_prints_resume_command(
    phase: str, number: int, group: bool, workers: int, repository: Path
) -> None:
    process = announcing(
        repository, phase, f"data.num_workers={workers}", "checkpoint_minutes=1000"
    )
    os.killpg(process.pid, number) if group else process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    name, (_, _, place, step) = signal.Signals(number).name, PHASES[phase]
    if step is None:
        assert not (repository / "logs" / "digits").exists()
        assert output.endswith(f"{name}: stopped before the first step\n")
        return
    run = the_run(repository)
    assert (
        f"{name}: stopped; to resume: python -m src.train --resume logs/digits/{run.path.name}\n"
        in output
    )
    meta = json.loads((run.path / "meta.json").read_text())
    assert (meta["exit"], meta["by"]) == ("interrupted", name)
    if place:
        resume = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["kindling"]["resume"]
        assert (resume["place"], resume["step"]) == (place, step)
    else:
        assert not run.checkpoints.exists()
    if number == signal.SIGTERM:
        again = start(repository, "--resume", "latest")
        output, _ = again.communicate(timeout=120)
        assert again.returncode == 0, output
        assert "\nresumed: logs/digits/" in f"\n{output}"


def test_second_ctrl_c_ends_at_once(repository: Path) -> None:
    slow = ANNOUNCING.replace(
        "time.sleep(0.5)", "time.sleep(0.5); print('then', flush=True); time.sleep(600)"
    )
    process = announcing(repository, "training", script=slow)
    process.send_signal(signal.SIGINT)
    until(process, lambda line: line.startswith("then"))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ended at once" in output


def test_sigusr1_before_first_step_requeues(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = repository / "scontrol"
    scontrol.write_text("#!/bin/sh\necho $* > asked\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{repository}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    process = announcing(repository, "loading")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1
    assert (repository / "asked").read_text() == "requeue 4711\n"


def test_ctrl_c_during_import_has_no_traceback(repository: Path) -> None:
    process = announcing(
        repository,
        "loading",
        script="""
import sys, time
print("now", flush=True)
del sys.argv[1:3]
from src.kindling.config import instantiate
def check(config):
    import torch
    print("then", flush=True)
    time.sleep(600)
instantiate.check = check
from src.kindling.config.command import run_command
from src.train import main
run_command(main)
""",
    )
    until(process, lambda line: line.startswith("then"))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
