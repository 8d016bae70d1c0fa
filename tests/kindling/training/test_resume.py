"""Resume a run: allowed changes, their effect, and the choice of the checkpoint."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.kindling.runs.run import Run
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.slurm import requeue
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, copied, kept_runs, mistakes, train

LR = "torch.optim.lr_scheduler"
STEP = f"task.scheduler={{_target_: {LR}.StepLR, step_size: 1, gamma: 0.5}}"
WORDS = (*LITTLE, STEP, "task.optimizer.lr=0.01")
LONGER = ("--resume", "latest", "trainer.max_epochs=3")
CHANGED = "the run was trained with other values; pass --override to accept the changes"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with kept_runs(tmp_path_factory):
        call("train", "digits", *WORDS)
        yield load_run("latest")


@pytest.fixture(scope="module")
def cosine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose schedule spans the whole training."""
    with kept_runs(tmp_path_factory):
        yield train("digits").run


@pytest.fixture
def run(trained: Run, logs: Path) -> Run:
    return copied(trained)


def last(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    return content


def last_group(run: Run) -> dict[str, Any]:
    group: dict[str, Any] = last(run)["optimizer_states"][0]["param_groups"][0]
    return group


def override(*words: str) -> None:
    """Train one epoch more with changes."""
    call("train", *LONGER, *words, "--override")


def meta(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "meta.json").read_text())
    return content


def column(run: Run, name: str) -> dict[str, str]:
    """The values of a column of steps.csv by step."""
    with (run.path / "steps.csv").open() as file:
        return {row["step"]: row[name] for row in csv.DictReader(file) if row[name]}


def test_resume_complete_run_prints_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = mistakes("train", "--resume", "latest")
    assert line.startswith(f"{run.path}: complete (2 epochs); ")
    assert line.endswith(f": python -m src.train --resume {run.path} trainer.max_epochs=4")
    left = [run.path / "run.json.tmp", run.checkpoints / "best.ckpt.tmp", run.path / ".probe-1"]
    for path in left:  # of a killed process
        path.write_text("half")
    call("train", "--resume", "latest", "trainer.max_epochs=4")
    output = capsys.readouterr().out
    assert f"resumed: {run.checkpoints / 'last.ckpt'}, the end of epoch 2 (6 steps)\n" in output
    assert "\nepoch 3/4  val/loss 0." in output
    assert [*column(run, "val/loss")] == ["2", "5", "8", "11"]
    facts = meta(run)
    assert (facts["epochs"], facts["exit"], len(facts["resumed"])) == (4, "finished", 1)
    assert load_run("latest").path == run.path
    assert load_run("latest").config.values["trainer"]["max_epochs"] == 4
    assert len(list(run.path.parent.iterdir())) == 1
    assert not any(path.exists() for path in left)
    assert not list(run.path.rglob("*.tmp"))


def test_resume_spanning_schedule_needs_override(cosine: Run, logs: Path) -> None:
    run = copied(cosine)
    (line,) = mistakes("train", "--resume", "latest")
    problem, _, command = line.partition(": python -m src.")
    assert problem == (
        f"{run.path}: complete (2 epochs); to train longer, raise trainer.max_epochs with "
        "--override, since CosineAnnealingLR spans the whole training"
    )
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=4") == [
        "trainer.max_epochs: changed from 2 to 4",
        "task.scheduler: CosineAnnealingLR spans the whole training, so a new length changes its "
        "remaining learning rates; pass --override to accept it",
    ]
    call(*command.split(), "trainer.log_every_n_steps=1")
    assert meta(run)["epochs"] == 4
    # The middle of a cosine over four epochs.
    assert float(column(run, "lr")["6"]) == pytest.approx(3e-3 / 2)


def test_resume_changes_are_refused_line_by_line(run: Run) -> None:
    assert mistakes(
        "train", "--resume", "latest", "task.optimizer.lr=0.5", "data.batch_size=16", "seed=7"
    ) == [
        "seed: changed from 0 to 7",
        "task.optimizer.lr: changed from 0.01 to 0.5",
        "data.batch_size: changed from default to 16",
        CHANGED,
    ]
    (line, _) = mistakes("train", "--resume", "latest", "net.channels=[4,4]")
    assert line == "net.channels: changed from default to [4, 4]"
    line, remedy = mistakes("train", *LONGER, "net.channels=[4,4]", "--override")
    assert line.startswith("net: the run's weights do not fit: net.")
    assert remedy == (
        "start a new run with the weights that fit: python -m src.train digits "
        f"--init {run.path} trainer.max_epochs=3 'net.channels=[4, 4]'"
    )
    (line, *_) = mistakes("train", "--resume", "latest", "task.optimizer._target_=torch.optim.SGD")
    assert line == "task.optimizer._target_: changed from torch.optim.AdamW to torch.optim.SGD"
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=1") == [
        "trainer.max_epochs: 1 is less than the 2 already done; raise it"
    ]
    assert mistakes("train", "mnist", "--resume", "latest") == [
        f"mnist: {run.path} is a run of digits; leave out the name"
    ]
    assert mistakes("train", "--resume", "latest", "net=mlp") == [
        "net=mlp: cannot change in an existing run; start a new run with net=mlp"
    ]
    assert mistakes("train", "--resume", "latest", "tainer.max_epochs=3")[0].startswith(
        "tainer.max_epochs: no such section; did you mean 'trainer'?"
    )
    assert mistakes("train", "digits", "--override") == [
        "--override: belongs to --resume RUN; leave it out"
    ]
    assert mistakes("train", "--resume", "latest", "--init", "latest") == [
        "--init: a resumed run has its own weights; leave out --init or --resume"
    ]


def test_override_lr_continues_schedule(run: Run) -> None:
    override("task.optimizer.lr=0.8", "trainer.log_every_n_steps=1")
    # Two epochs of halving.
    assert float(column(run, "lr")["6"]) == pytest.approx(0.8 / 4)
    group = last_group(run)
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(0.1), 0.8)


def test_override_length_of_onecycle() -> None:
    schedule = f"task.scheduler={{_target_: {LR}.OneCycleLR, max_lr: 0.01}}"
    call("train", "digits", *LITTLE, schedule)
    line = mistakes("train", "--resume", "latest", "trainer.max_epochs=4")[1]
    assert line.startswith("task.scheduler: OneCycleLR spans ")
    override("trainer.max_epochs=4")
    (state,) = last(load_run("latest"))["lr_schedulers"]
    assert (state["total_steps"], state["last_epoch"]) == (12, 12)


def test_override_optimizer_and_schedule(run: Run) -> None:
    override(
        "task.optimizer={_target_: torch.optim.SGD, lr: 0.5, momentum: 0.9}",
        "task.decay_bias_and_norm=true",
        f"task.scheduler={{_target_: {LR}.OneCycleLR, max_lr: 0.4}}",
    )
    (state,), (schedule,) = last(run)["optimizer_states"], last(run)["lr_schedulers"]
    assert all(set(of) == {"momentum_buffer"} for of in state["state"].values())
    assert last_group(run)["max_lr"] == 0.4
    # Moved by steps, where the other moved by epochs.
    assert (schedule["total_steps"], schedule["last_epoch"]) == (9, 9)


def test_override_dropout(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (line, _) = mistakes("train", *LONGER, "net.dropout=0.75")
    assert line == "net.dropout: changed from default to 0.75"
    rates: set[float] = set()
    dropout = torch.nn.functional.dropout

    def recorded(x: torch.Tensor, p: float, *rest: Any) -> torch.Tensor:
        rates.add(p)
        return dropout(x, p, *rest)

    monkeypatch.setattr(torch.nn.functional, "dropout", recorded)
    override("net.dropout=0.75")
    assert rates == {0.75}


def test_override_keeps_lr_of_plateau() -> None:
    plateau = f"task.scheduler={{_target_: {LR}.ReduceLROnPlateau, patience: 0, threshold: 0.9}}"
    call("train", "digits", *LITTLE, "task.optimizer.lr=0.01", plateau)
    override("data.batch_size=32")
    assert last_group(load_run("latest"))["lr"] == pytest.approx(1e-4)


def test_override_patience() -> None:
    target = "lightning.pytorch.callbacks.EarlyStopping"
    stop = f"callbacks.stop={{_target_: {target}, patience: 1, min_delta: 9}}"
    call("train", "digits", *LITTLE, STEP, stop, "trainer.max_epochs=9")
    run = load_run("latest")
    assert meta(run)["epochs"] == 2
    override("trainer.max_epochs=8", "callbacks.stop.patience=3")
    assert meta(run)["epochs"] == 6  # it counts from zero


def test_override_of_monitor_forgets_the_best_score(run: Run) -> None:
    override("monitor=val/loss", "mode=max")
    *_, before, after = map(float, column(run, "val/loss").values())
    assert after < before
    best = last(run)["callbacks"]["Checkpoint"]["best_score"]
    assert best.item() == pytest.approx(after)


def edit(run: Run, old: str, new: str) -> None:
    path = run.path / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_resume_edited_config_needs_override(run: Run) -> None:
    edit(run, "lr: 0.01", "lr: 0.8")
    line = "task.optimizer.lr: changed from 0.01 to 0.8"
    assert mistakes("train", *LONGER) == [line, CHANGED]
    override()
    assert last_group(run)["initial_lr"] == 0.8


def test_override_lasts_until_saved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "on_train_batch_end", killed)
        with pytest.raises(Killed):
            override("task.optimizer.lr=0.8")
    call("train", "--resume", "latest")
    assert last_group(run)["initial_lr"] == 0.8
    edit(run, "lr: 0.8", "lr: 0.4")  # a later change is refused again
    assert len(mistakes("train", "--resume", "latest", "trainer.max_epochs=4")) == 2


def test_resume_copy_of_run_and_foreign_checkpoint(run: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "elsewhere" / "copy of it")
    shutil.copytree(run.path, copy.path)
    call("train", "--resume", str(copy.path), "trainer.max_epochs=3")
    assert (last(copy)["epoch"], last(run)["epoch"]) == (3, 2)
    file = run.checkpoints / "last.ckpt"
    assert mistakes("train", "--resume", str(file)) == [
        f"--resume {file}: pass the run, {run.path}; its newest readable checkpoint is used"
    ]
    content = last(run)
    del content["kindling"]["resume"]["form"]
    torch.save(content, file)
    commit = meta(run)["git"]["commit"]
    version = f"commit {commit}" if commit else "the version that started the run"
    assert mistakes("train", *LONGER) == [
        f"{file}: saved by another version of src/ (resume state 1, expected 2); resume with "
        f"{version}"
    ]
    shutil.copy(run.checkpoints / "best.ckpt", file)
    assert mistakes("train", *LONGER) == [
        f"{file}: has no resume state, like a copy of best.ckpt or a file of another version; "
        "restore the run's own last.ckpt"
    ]


def test_resume_with_longer_max_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # of Lightning's Timer, which looks at it after each batch
    time = SimpleNamespace(monotonic=lambda: next(clock) / 20)
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", time)
    limit = "trainer.max_time='00:00:00:01'"
    call("train", "digits", *LITTLE, STEP, "trainer.max_epochs=100000", limit)
    run = load_run("latest")
    epochs = meta(run)["epochs"]
    assert 0 < epochs < 100000
    (line,) = mistakes("train", "--resume", "latest")
    assert line.endswith(f": complete ({epochs} epochs), trainer.max_time is reached; raise it")
    call("train", "--resume", "latest", "trainer.max_time='00:00:00:02'")
    assert meta(run)["epochs"] > epochs


def test_resume_asks_for_redacted_value(run: Run) -> None:
    name = "name='https://me:hunter2@host'"
    call("train", *LONGER, name)
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=4") == [
        "name: redacted in the run's files; set it again, best as a reference: "
        "name='${oc.env:NAME}'"
    ]
    call("train", "--resume", "latest", "trainer.max_epochs=4", name)


def test_resume_with_other_data_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.data.digits import Digits

    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: (s := load(self), s.x.clamp_(max=9))[0])
    assert mistakes("train", *LONGER) == [
        "data: other samples or another split than the run was trained on; restore them, or pass "
        "--override to resume with these"
    ]


def test_resume_damaged_checkpoint_takes_previous(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.checkpoints / "last.ckpt"
    file.write_bytes(file.read_bytes()[:5000])
    call("train", *LONGER)
    output = capsys.readouterr().out
    assert (
        f"WARNING    {file}: not a readable checkpoint: its 5,000 bytes are cut off, or another "
        "kind of file" in output
    )
    assert f"resumed: {run.checkpoints / 'previous.ckpt'}, the end of epoch 1 (3 steps)" in output
    for name in ("last.ckpt", "previous.ckpt"):
        (run.checkpoints / name).write_text("nothing")
    *_, line = mistakes("train", "--resume", "latest", "trainer.max_epochs=4")
    assert line == "no checkpoint of this run can be read"


def test_resume_before_first_checkpoint_starts_from_scratch(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (run.path / "metrics.csv").read_bytes()
    shutil.rmtree(run.checkpoints)
    call("train", "--resume", "latest")
    line = f"resumed: {run.path} has no checkpoint yet; training starts from scratch\n"
    assert line in capsys.readouterr().out
    assert (run.path / "metrics.csv").read_bytes() == expected


def test_requeued_job_resumes(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "meta.json").write_text(json.dumps({**meta(run), "slurm_job": "4711"}))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert mistakes("train", "digits", *WORDS)[0].startswith(f"{run.path}: complete (2 epochs)")
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    call("train", "digits", *WORDS)
    assert load_run("latest").path != run.path
    assert meta(load_run("latest"))["slurm_job"] == "4712"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho $* > " + str(tmp_path / "asked"))
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requeue()
    assert (tmp_path / "asked").read_text() == "requeue 4712\n"
    assert "job 4712 is queued again" in capsys.readouterr().out
