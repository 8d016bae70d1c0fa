"""Resume a run: allowed changes, their effect, and the choice of the checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, mistakes, train

STEP = "task.scheduler={_target_: torch.optim.lr_scheduler.StepLR, step_size: 1, gamma: 0.5}"
WORDS = (*LITTLE, STEP, "task.optimizer.lr=0.01")


@pytest.fixture
def run() -> Run:
    call("train", "digits", *WORDS)
    return load_run("latest")


def test_resume_complete_run_prints_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = mistakes("train", "--resume", "latest")
    assert line.startswith(f"{run.path}: complete (2 epochs); ")
    assert line.endswith(f": python -m src.train --resume {run.path} trainer.max_epochs=4")
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


def test_what_it_says_works_with_a_schedule_that_is_stretched(logs: Path) -> None:
    run = train("digits").run
    (line,) = mistakes("train", "--resume", "latest")
    told, _, command = line.partition(": python -m src.")
    assert told == (
        f"{run.path}: complete (2 epochs); to train longer, raise trainer.max_epochs with "
        "--override, since CosineAnnealingLR spans the whole training"
    )
    call(*command.split())
    assert json.loads((run.path / "meta.json").read_text())["epochs"] == 4


def test_what_differs_is_refused_line_by_line(run: Run) -> None:
    assert mistakes(
        "train", "--resume", "latest", "task.optimizer.lr=0.5", "data.batch_size=16", "seed=7"
    ) == [
        "seed: changed from 0 to 7",
        "task.optimizer.lr: changed from 0.01 to 0.5",
        "data.batch_size: changed from default to 16",
        "the run was trained with other values; pass --override to accept the changes",
    ]
    (line, _) = mistakes("train", "--resume", "latest", "net.channels=[4,4]")
    assert line == "net.channels: changed from default to [4, 4]"
    words = ("net.channels=[4,4]", "trainer.max_epochs=3")
    line, remedy = mistakes("train", "--resume", "latest", *words, "--override")
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
        "net=mlp: a run keeps its parts; begin a new one with net=mlp"
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


def test_an_overridden_rate_takes_effect_and_the_schedule_goes_on(run: Run) -> None:
    call(
        "train",
        "--resume",
        "latest",
        "trainer.max_epochs=3",
        "task.optimizer.lr=0.8",
        "--override",
        "trainer.log_every_n_steps=1",
    )
    with (run.path / "metrics.csv").open() as file:
        rates = {row["step"]: float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert rates["6"] == pytest.approx(0.8 / 4)  # two epochs of halving
    group = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["optimizer_states"][0][
        "param_groups"
    ][0]
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(0.1), 0.8)


def test_a_schedule_over_the_whole_training_is_not_stretched_silently() -> None:
    call("train", "digits", *LITTLE)
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=4") == [
        "trainer.max_epochs: changed from 2 to 4",
        "task.scheduler: CosineAnnealingLR spans the whole training, so a new length changes its "
        "remaining learning rates; pass --override to accept it",
    ]
    call(
        "train",
        "--resume",
        "latest",
        "trainer.max_epochs=4",
        "--override",
        "trainer.log_every_n_steps=1",
    )
    with (load_run("latest").path / "metrics.csv").open() as file:
        rates = {row["step"]: float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert rates["6"] == pytest.approx(3e-3 / 2)  # the middle of a cosine over four epochs


def test_onecycle_is_not_stretched_silently() -> None:
    call(
        "train",
        "digits",
        *LITTLE,
        "task.scheduler={_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.01}",
    )
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=4")[1].startswith(
        "task.scheduler: OneCycleLR spans "
    )
    call(
        "train",
        "--resume",
        "latest",
        "trainer.max_epochs=4",
        "--override",
        "trainer.log_every_n_steps=1",
    )
    schedule = load_run("latest").checkpoints / "last.ckpt"
    (state,) = torch.load(schedule, weights_only=True)["lr_schedulers"]
    assert (state["total_steps"], state["last_epoch"]) == (12, 12)


def after(run: Run, *words: str) -> dict[str, Any]:
    """What the run's last.ckpt holds after an epoch more, with what differs."""
    call("train", "--resume", "latest", "trainer.max_epochs=3", *words, "--override")
    content: dict[str, Any] = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    return content


def test_another_optimizer_and_another_schedule_take_effect(run: Run) -> None:
    words = (
        "task.optimizer={_target_: torch.optim.SGD, lr: 0.5, momentum: 0.9}",
        "task.decay_bias_and_norm=true",
        "task.scheduler={_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.4}",
    )
    content = after(run, *words)
    (state,), (group,) = content["optimizer_states"], content["optimizer_states"][0]["param_groups"]
    assert all(set(of) == {"momentum_buffer"} for of in state["state"].values())
    assert group["max_lr"] == 0.4
    (schedule,) = content["lr_schedulers"]
    assert (schedule["total_steps"], schedule["last_epoch"]) == (
        9,
        9,
    )  # moved by steps, where the other moved by epochs


def test_a_net_that_the_weights_fit_takes_effect(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (line, _) = mistakes("train", "--resume", "latest", "trainer.max_epochs=3", "net.dropout=0.75")
    assert line == "net.dropout: changed from default to 0.75"
    rates: list[float] = []
    dropout = torch.nn.functional.dropout
    monkeypatch.setattr(
        torch.nn.functional,
        "dropout",
        lambda x, p, *rest: (rates.append(p), dropout(x, p, *rest))[1],
    )
    after(run, "net.dropout=0.75")
    assert set(rates) == {0.75}


def test_a_plateaus_rate_stays_where_it_has_come_to() -> None:
    target = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    plateau = f"task.scheduler={{_target_: {target}, patience: 0, threshold: 0.9}}"
    call("train", "digits", *LITTLE, "task.optimizer.lr=0.01", plateau)
    run = load_run("latest")
    assert after(run, "data.batch_size=32")["optimizer_states"][0]["param_groups"][0][
        "lr"
    ] == pytest.approx(1e-4)


def test_another_patience_takes_effect() -> None:
    target = "lightning.pytorch.callbacks.EarlyStopping"
    stop = f"callbacks.stop={{_target_: {target}, patience: 1, min_delta: 9}}"
    call("train", "digits", *LITTLE, STEP, stop, "trainer.max_epochs=9")
    run = load_run("latest")
    assert json.loads((run.path / "meta.json").read_text())["epochs"] == 2
    call(
        "train",
        "--resume",
        "latest",
        "trainer.max_epochs=8",
        "callbacks.stop.patience=3",
        "--override",
    )
    assert json.loads((run.path / "meta.json").read_text())["epochs"] == 6  # it begins to wait anew


def edit(run: Run, old: str, new: str) -> None:
    path = run.path / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_config_that_was_edited_by_hand_is_refused_too(run: Run) -> None:
    edit(run, "lr: 0.01", "lr: 0.8")
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        "task.optimizer.lr: changed from 0.01 to 0.8",
        "the run was trained with other values; pass --override to accept the changes",
    ]
    assert after(run)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.8


def test_what_was_overridden_takes_effect_though_killed_before_it_was_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.kindling.training.callbacks.checkpoint import Checkpoint

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "on_train_batch_end", killed)
        with pytest.raises(Killed):
            call(
                "train",
                "--resume",
                "latest",
                "trainer.max_epochs=3",
                "task.optimizer.lr=0.8",
                "--override",
            )
    call("train", "--resume", "latest")
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.8
    edit(run, "lr: 0.8", "lr: 0.4")  # and it is not meant for ever
    assert len(mistakes("train", "--resume", "latest", "trainer.max_epochs=4")) == 2


def test_a_copy_of_a_run_goes_on_and_a_strange_checkpoint_is_one_line(
    run: Run, tmp_path: Path
) -> None:
    copy = Run(tmp_path / "elsewhere" / "copy of it")
    shutil.copytree(run.path, copy.path)
    call("train", "--resume", str(copy.path), "trainer.max_epochs=3")
    assert torch.load(copy.checkpoints / "last.ckpt", weights_only=True)["epoch"] == 3
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["epoch"] == 2
    last = run.checkpoints / "last.ckpt"
    assert mistakes("train", "--resume", str(last)) == [
        f"--resume {last}: pass the run, {run.path}; its newest readable checkpoint is used"
    ]
    shutil.copy(run.checkpoints / "best.ckpt", last)
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        f"{last}: has no resume state, as a copy of best.ckpt or a file of another version; "
        "restore the run's own last.ckpt"
    ]


def test_a_run_of_another_version_is_one_line(run: Run) -> None:
    last = run.checkpoints / "last.ckpt"
    content = torch.load(last, weights_only=True)
    commit = json.loads((run.path / "meta.json").read_text())["git"]["commit"]
    began = f"commit {commit}" if commit else "the version that started the run"
    del content["kindling"]["resume"]["form"]
    torch.save(content, last)
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        f"{last}: saved by another version of src/ (resume state 1, expected 2); resume with "
        f"{began}"
    ]


def test_a_time_that_is_over_can_be_raised() -> None:
    call(
        "train",
        "digits",
        *LITTLE,
        STEP,
        "trainer.max_epochs=100000",
        "trainer.max_time='00:00:00:01'",
    )
    run = load_run("latest")
    epochs = json.loads((run.path / "meta.json").read_text())["epochs"]
    assert 0 < epochs < 100000
    (line,) = mistakes("train", "--resume", "latest")
    assert line.endswith(f": complete ({epochs} epochs), trainer.max_time is reached; raise it")
    call("train", "--resume", "latest", "trainer.max_time='00:00:00:02'")
    assert json.loads((run.path / "meta.json").read_text())["epochs"] > epochs


def test_a_value_that_was_kept_secret_is_asked_for_again() -> None:
    call("train", "digits", *WORDS, "name='https://me:hunter2@host'")
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        "name: redacted in the run's files; set it again, best as a reference: "
        "name='${oc.env:NAME}'"
    ]
    call("train", "--resume", "latest", "trainer.max_epochs=3", "name='https://me:hunter2@host'")


def test_what_a_killed_process_was_writing_is_swept(run: Run) -> None:
    left = [run.path / "run.json.tmp", run.checkpoints / "best.ckpt.tmp", run.path / ".probe-1"]
    for path in left:
        path.write_text("half")
    call("train", "--resume", "latest", "trainer.max_epochs=3")
    assert not any(path.exists() for path in left)
    assert not list(run.path.rglob("*.tmp"))


def test_other_data_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.data.digits import Digits

    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: (s := load(self), s.x.clamp_(max=9))[0])
    assert mistakes("train", "--resume", "latest", "trainer.max_epochs=3") == [
        "data: other samples or another split than the run was trained on; restore them, or pass "
        "--override to resume with these"
    ]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    call("train", "--resume", "latest", "trainer.max_epochs=3")
    output = capsys.readouterr().out
    assert (
        f"WARNING    {last}: not a readable checkpoint: its 5,000 bytes are cut off, or another "
        "kind of file" in output
    )
    assert f"resumed: {run.checkpoints / 'previous.ckpt'}, the end of epoch 1 (3 steps)" in output
    for name in ("last.ckpt", "previous.ckpt"):
        (run.checkpoints / name).write_text("nothing")
    *_, line = mistakes("train", "--resume", "latest", "trainer.max_epochs=4")
    assert line == "no checkpoint of this run can be read"


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (run.path / "metrics.csv").read_bytes()
    shutil.rmtree(run.checkpoints)
    call("train", "--resume", "latest")
    assert (
        f"resumed: {run.path} has no checkpoint yet; training starts from scratch\n"
        in capsys.readouterr().out
    )
    assert (run.path / "metrics.csv").read_bytes() == expected


def test_a_requeued_job_goes_on_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    from src.kindling.training.slurm import requeue

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requeue()
    assert (tmp_path / "asked").read_text() == "requeue 4712\n"
    assert "job 4712 is queued again" in capsys.readouterr().out
