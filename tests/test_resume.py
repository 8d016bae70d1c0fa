"""Going on with a run: what may differ, what takes effect, and which checkpoint is taken."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from src.run import Run, load_run
from tests.conftest import LITTLE, call, mistakes

STEP = "task.scheduler={_target_: torch.optim.lr_scheduler.StepLR, step_size: 1, gamma: 0.5}"
WORDS = (*LITTLE, STEP, "task.optimizer.lr=0.01")


@pytest.fixture
def run() -> Run:
    call("train", "digits", *WORDS)
    return load_run("latest")


def test_a_run_that_is_complete_says_how_to_go_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    complete = f"{run.path}: complete (2 epochs); to train on, raise trainer.max_epochs: python -m src.train --resume "
    assert mistakes("train", "--resume", "latest") == [f"{complete}{run.path} trainer.max_epochs=4"]
    call("train", "--resume", "latest", "trainer.max_epochs=4")
    output = capsys.readouterr().out
    assert f"resumed: {run.checkpoints / 'last.ckpt'}, the end of epoch 2 (6 steps)\n" in output
    assert "\nepoch 3/4  train/accuracy 0." in output
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val/loss"]] == ["2", "5", "8", "11"]
    meta = json.loads((run.path / "meta.json").read_text())
    assert (meta["epochs"], meta["exit"], len(meta["resumed"])) == (4, "finished", 1)
    assert load_run("latest").path == run.path
    assert load_run("latest").config.values["trainer"]["max_epochs"] == 4
    assert len(list(run.path.parent.iterdir())) == 1


def test_what_differs_is_refused_line_by_line(run: Run) -> None:
    assert mistakes("train", "--resume", "latest", "task.optimizer.lr=0.5", "data.batch_size=16", "seed=7") == [
        "seed: the run has 0, and 7 is asked for",
        "task.optimizer.lr: the run has 0.01, and 0.5 is asked for",
        "data.batch_size: the run has its default, and 16 is asked for",
        "a resumed run goes on as it was; --override makes it so all the same",
    ]
    assert mistakes("train", "--resume", "latest", "net.channels=[4,4]", "--override") == [
        "net.channels: the run has its default, and [4, 4] is asked for",
        "its weights and optimizer states do not fit that; begin a new run from its weights: python -m src.train digits "
        f"--init {run.path} net.channels=[4,4]",
    ]  # fmt: skip
    (line, _) = mistakes("train", "--resume", "latest", "task.optimizer._target_=torch.optim.SGD", "--override")
    assert line == "task.optimizer._target_: the run has torch.optim.AdamW, and torch.optim.SGD is asked for"
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=1") == [
        "trainer.max_epochs: the run has done 2 already, and 1 is asked for"
    ]
    assert mistakes("train", "mnist", "--resume", "latest") == [
        f"mnist: {run.path} is a run of digits; leave the config's name out"
    ]
    assert mistakes("train", "--resume", "latest", "net=mlp") == [
        "net=mlp: a run keeps its parts; begin a new one with net=mlp"
    ]
    assert mistakes("train", "--resume", "latest", "tainer.max_epochs=3")[0].startswith(
        "tainer.max_epochs: no such section; did you mean 'trainer'?"
    )
    assert mistakes("train", "digits", "--override") == ["--override: belongs to --resume RUN"]
    assert mistakes("train", "--resume", "latest", "--init", "latest") == [
        "--init: a resumed run has weights of its own; leave out --init or --resume"
    ]


def test_an_overridden_rate_takes_effect_and_the_schedule_goes_on(run: Run) -> None:
    call("train", "--resume", "latest", "trainer.max_epochs=3", "task.optimizer.lr=0.8", "--override",
         "trainer.log_every_n_steps=1")  # fmt: skip
    with (run.path / "metrics.csv").open() as file:
        rates = {row["step"]: float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert rates["6"] == pytest.approx(0.8 / 4)  # two epochs of halving
    group = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(0.1), 0.8)


def test_a_schedule_over_the_whole_training_is_not_stretched_silently() -> None:
    call("train", "digits", *LITTLE)
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=4") == [
        "trainer.max_epochs: the run has 2, and 4 is asked for",
        "task.scheduler: CosineAnnealingLR runs over the whole training, and would be stretched from where it stands; "
        "--override makes it so all the same"]  # fmt: skip
    call("train", "--resume", "latest", "trainer.max_epochs=4", "--override", "trainer.log_every_n_steps=1")
    with (load_run("latest").path / "metrics.csv").open() as file:
        rates = {row["step"]: float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert rates["6"] == pytest.approx(3e-3 / 2)  # the middle of a cosine over four epochs


def test_other_data_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.data.digits import Digits

    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: (s := load(self), s.x.clamp_(max=9))[0])
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        "data: they are not those that the run was trained on (other samples, or another split); bring them back, or go "
        "on with these by --override"]  # fmt: skip


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    call("train", "--resume", "latest", "trainer.max_epochs=3")
    output = capsys.readouterr().out
    assert (
        f"WARNING    {last}: not a readable checkpoint: its 5,000 bytes are cut off, or another kind of file" in output
    )
    assert f"resumed: {run.checkpoints / 'previous.ckpt'}, the end of epoch 1 (3 steps)" in output
    for name in ("last.ckpt", "previous.ckpt"):
        (run.checkpoints / name).write_text("nothing")
    *_, line = mistakes("train", "--resume", "latest", "trainer.max_epochs=4")
    assert line == "no checkpoint of this run can be read"


def test_a_run_stopped_before_its_first_checkpoint_begins_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (run.path / "metrics.csv").read_bytes()
    shutil.rmtree(run.checkpoints)
    call("train", "--resume", "latest")
    assert f"resumed: {run.path} was stopped before its first checkpoint; it begins again\n" in capsys.readouterr().out
    assert (run.path / "metrics.csv").read_bytes() == expected


def test_a_requeued_job_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    call("train", "digits", *WORDS)
    run = load_run("latest")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert mistakes("train", "digits", *WORDS)[0].startswith(f"{run.path}: complete (2 epochs)")
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    call("train", "digits", *WORDS)
    assert load_run("latest").path != run.path
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho $* > " + str(tmp_path / "asked"))
    scontrol.chmod(0o755)
    from src.slurm import requeue

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requeue()
    assert (tmp_path / "asked").read_text() == "requeue 4712\n"
    assert "job 4712 is queued again" in capsys.readouterr().out
