"""fit and the train command: reproducible numbers, curves, mistakes, and --init."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from src.kindling.config import targets
from src.kindling.config.errors import TrainingError
from src.kindling.runs.run import Run
from src.kindling.training.callbacks.progress import EpochLines
from src.kindling.training.fit import fit
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from tests.conftest import LITTLE, as_own_task, call, checked, folders, mistakes, train


def metrics_bytes(*words: str) -> bytes:
    return (train("digits", "net.dropout=0.2", *words).run.path / "metrics.json").read_bytes()


def test_same_seed_is_byte_identical() -> None:
    first = metrics_bytes("seed=3")
    assert metrics_bytes("seed=3", "data.num_workers=2") == first
    assert metrics_bytes("seed=4") != first


def test_tensorboard_finds_the_curves() -> None:
    run = train("digits").run
    events = EventAccumulator(str(run.path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/accuracy"} <= set(
        tags
    )
    assert [event.step for event in events.Scalars("val/loss")] == [2, 5]
    assert "hp_metric" not in tags
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(metrics["test/accuracy"])
    assert len(list(run.path.glob("events*"))) == 1


def test_final_metrics_of_best_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # From the second epoch on, every validation finds the net ruined.
    ruin = Classification.on_validation_epoch_start

    def ruined(task: Classification) -> None:
        ruin(task)
        if task.current_epoch >= 1 and task.trainer.state.fn == "fit":
            task.net.head.bias.data[0] += 100

    monkeypatch.setattr(Classification, "on_validation_epoch_start", ruined)
    result = train("digits", "trainer.max_epochs=3")
    losses = pd.read_csv(result.run.path / "metrics.csv")["val/loss"].tolist()
    assert result.metrics["val/loss"] == pytest.approx(min(losses))
    assert losses[-1] > min(losses)
    assert result.score == pytest.approx(min(losses))


def test_stages_leave_the_test_set_unseen() -> None:
    config = checked("digits", *LITTLE)
    result = fit(config, Run.claim("digits"), stages=("val",))
    assert {name.partition("/")[0] for name in result.metrics} == {"val"}


def test_piped_output_is_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    call("train", "digits", *LITTLE)
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert output.err == ""
    assert (
        lines.pop(0) == "digits: CNN with 29,162 parameters on cpu; 1,257 train, 270 val, 270 test"
    )
    assert lines[0] == "speed: 1 thread, 0 workers, 32-true, channels_last"
    assert lines.pop(1).startswith("classes: 0 (178), 1 (182), 2 (177), ")
    assert [line.partition("  ")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    for name in ("train/accuracy", "train/loss", "val/accuracy", "val/loss"):
        assert f"  {name} 0." in lines[1] or f"  {name} " in lines[1]
    assert lines[3].split() == ["metric", "val", "test"]
    assert [line.split()[0] for line in lines[4:10]] == [
        "accuracy",
        "auroc",
        "f1",
        "loss",
        "precision",
        "recall",
    ]
    run = load_run("latest").path
    assert lines[11].startswith(f"run        {run} (2 epochs, ")
    assert lines[12:] == [
        f"curves     tensorboard --logdir {run.parents[1]}",
        f"again      python -m src.evaluate {run}",
    ]


def test_data_mistake_leaves_no_run(logs: Path) -> None:
    assert mistakes("train", "digits", "data.split=[0.5,0.2,0.1]") == [
        "data.split: [0.5, 0.2, 0.1]: the shares add up to 0.8, not to 1"
    ]
    assert mistakes("train", "digits", "data=diabetes") == [
        "net: CNN needs images (channels, height, width), and the data is (10,); try net=mlp"
    ]
    assert mistakes("train", "digits", "task=regression") == [
        "task: needs values, and the data has one class for a sample; set task=classification"
    ]
    (line,) = mistakes("train", "diabetes", "task=classification")
    assert line.startswith("task: needs one class for a sample, and the data has values (disease ")
    assert line.endswith("; set task=regression")
    assert mistakes("train", "digits", "task.optimizer.lr=-1") == [
        "task.optimizer: AdamW: Invalid learning rate: -1.0"
    ]
    assert list(logs.iterdir()) == []  # nor an empty folder for them


def test_crash_keeps_run_and_reason(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Classification) -> None:
        if not isinstance(self.trainer.logger, DummyLogger):  # after the rehearsal
            raise RuntimeError("planted")
        self.log_dict(self.val_meter.compute())

    monkeypatch.setattr(Classification, "on_validation_epoch_end", broken)
    with pytest.raises(RuntimeError, match="planted"):
        call("train", "digits", *LITTLE)
    (name,) = folders(logs)
    assert json.loads((logs / name / "meta.json").read_text())["exit"] == "failed"
    assert json.loads((logs / name / "run.json").read_text())["status"] == "failed"


class Exits(Classification):
    """Ends the process, as a script may do."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx:
            sys.exit()
        return super().training_step(batch, batch_idx)


def test_exit_of_a_task_is_a_failed_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="sys.exit"):
        call("train", "digits", *LITTLE, as_own_task(Exits, monkeypatch), "--no-plots")


def test_another_runs_weights_are_taken_where_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    first = train("digits").run
    call(
        "train",
        "digits",
        *LITTLE,
        "--init",
        str(first.path),
        "task.optimizer.lr=0",
        "data.split=[0.6,0.2,0.2]",
    )
    assert f"init: loaded 14 tensors of the net from {first.path}" in capsys.readouterr().out
    ours = load_run("latest")
    assert torch.equal(ours.task.net.head.weight, first.task.net.head.weight)
    assert ours.spec.mean != first.spec.mean  # the statistics are those of its own training split

    narrow = ("train", "digits", *LITTLE, "--init", str(first.path), "net.channels=[32,48]")
    assert mistakes(*narrow) == [
        f"--init {first.path}: 8 of 14 tensors fit this net (2 % of its parameters); "
        "pass --partial to take them"
    ]
    call(*narrow, "--partial")
    output = capsys.readouterr().out
    assert f"init: loaded 8 tensors of the net from {first.path} (2 % of its parameters)" in output
    assert "init: not loaded: net.head.weight ((10, 768) here, (10, 1024) there)" in output
    meta = json.loads((load_run("latest").path / "meta.json").read_text())
    assert "net.head.weight" in meta["init"]["left"]

    assert mistakes("train", "diabetes", *LITTLE, "--init", str(first.path), "net.hidden=[7]") == [
        f"--init {first.path}: 0 of 2 tensors fit this net (0 % of its parameters); "
        "name a run of the same net"
    ]
    assert mistakes(*narrow, "--by-order")[0].endswith("; name a run of the same net")
    assert mistakes("train", "digits", "--partial") == [
        "--partial, --by-order: belong to --init RUN; leave them out"
    ]


@pytest.mark.parametrize(
    "words",
    [
        [
            "task.scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
            "task.scheduler.max_lr=0.01",
        ],
        ["task.scheduler._target_=torch.optim.lr_scheduler.StepLR", "task.scheduler.step_size=1"],
        [
            "task.scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
            "task.scheduler.patience=0",
        ],
        [
            "task.scheduler._target_=torch.optim.lr_scheduler.CyclicLR",
            "task.scheduler.base_lr=0.001",
            "task.scheduler.max_lr=0.01",
            "task.optimizer._target_=torch.optim.SGD",
        ],
        ["task.optimizer._target_=torch.optim.LBFGS", "task.scheduler=null"],
        [
            "task.loss.weight=[1,1,1,1,1,1,1,1,1,1]",
            "trainer.max_epochs=null",
            "trainer.max_steps=5",
        ],
        [
            "task.scheduler=null",
            "task.decay_bias_and_norm=false",
            "task.optimizer._target_=torch.optim.SGD",
        ],
    ],
)
def test_any_optimizer_and_scheduler(words: list[str]) -> None:
    assert train("digits", *words).metrics["val/loss"] > 0


def test_empty_stage_is_not_measured() -> None:
    for word in ("data.split=[0.8,0.2,0]", "trainer.limit_test_batches=0"):
        assert {name.partition("/")[0] for name in train("digits", word).metrics} == {"val"}


def test_training_without_steps_loads(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", "trainer.max_epochs=0")
    note = "no step was trained; the metrics are those of the initial weights"
    assert capsys.readouterr().out.count(note) == 1
    assert load_run("latest").checkpoint_file.name == "last.ckpt"
    call("evaluate", "latest")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "monitor=val/acuracy",
            "monitor: 'val/acuracy' is not logged in validation; did you mean 'val/accuracy'? "
            "(logged: val/accuracy, val/auroc, val/f1, val/loss, val/precision, val/recall)",
        ),
        (
            "task.metrics.loss._target_=torchmetrics.MeanMetric",
            "task.metrics.loss: this name is reserved; choose another",
        ),
        (
            "task.metrics.f1._target_=torchmetrics.MeanMetric",
            "task.metrics.f1: the name is taken by a metric of the task; choose another",
        ),
        ("task.scheduler.T_max=0", "task.scheduler.T_max: expected at least 1, got 0"),
        (
            "trainer.overfit_batches=-3",
            "trainer: Trainer: You have passed invalid value -3 for overfit_batches, it has to be "
            "in "
            "[0.0, 1.0] or an int. (command line)",
        ),
        (
            "task._target_=lightning.pytorch.LightningModule",
            "task: LightningModule has no parameter to train (requires_grad); choose another",
        ),
    ],
)
def test_constructor_error_is_one_line(word: str, line: str, logs: Path) -> None:
    assert mistakes("train", "digits", word) == [line]
    assert folders(logs) == []


def test_logs_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("src.kindling.runs.run.LOGS", tmp_path / "file")
    assert mistakes("train", "digits") == [
        f"{tmp_path / 'file' / 'digits'}: the runs' folder cannot be made: Not a directory; "
        "let logs/ be a link to a folder that you may write"
    ]


def test_early_stopping_watches_the_monitor(capsys: pytest.CaptureFixture[str]) -> None:
    stop = "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"
    result = train(
        "digits",
        stop,
        "callbacks.stop.patience=1",
        "task.optimizer.lr=0",
        "trainer.max_epochs=9",
        "monitor=val/accuracy",
        "mode=max",
    )
    assert json.loads((result.run.path / "meta.json").read_text())["epochs"] == 2
    why = "early stopping: Monitored metric val/accuracy did not improve in the last 1 records. "
    assert f"\nstopped after epoch 2 of 9: {why}" in capsys.readouterr().out


def test_debug_runs_a_few_batches_of_everything() -> None:
    call("train", "digits", "trainer=debug", "num_threads=1")
    run = load_run("latest")
    assert (run.path / "metrics.csv").read_text().splitlines()[1].startswith("1,2,")
    assert set(run.metrics) >= {"val/accuracy", "test/accuracy"}


def test_balanced_sampler_and_balanced_weights_are_refused_together(logs: Path) -> None:
    both = ("data.sampler=balanced", "task.class_weights=balanced")
    line = (
        "data.sampler and task.class_weights: both are 'balanced', which corrects for rare classes "
        "twice; set only "
        "task.class_weights=balanced, or only data.sampler=balanced (command line)"
    )
    assert mistakes("train", "digits", *LITTLE, *both) == [line]
    assert mistakes("train", "digits", "--find", "lr", *both) == [line]
    assert list(logs.iterdir()) == []
    for one in both:
        train("digits", one)


@pytest.mark.parametrize(
    ("part", "name"),
    [(EpochLines, "on_train_end"), (sys.modules["src.kindling.training.fit"], "print")],
    ids=["at the end", "before the first step"],
)
def test_closed_output_is_an_interruption(
    part: Any, name: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(part, name, write, raising=False)
    with pytest.raises(BrokenPipeError):
        call("train", "digits", *LITTLE)
    (path,) = (logs / "digits").iterdir()
    meta = json.loads((path / "meta.json").read_text())
    assert (meta["exit"], meta["by"]) == ("interrupted", "SIGPIPE")


class WithoutNet(LightningModule):
    """Builds its net itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_net_without_effect_is_refused(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: ("tests",))
    task = "task._target_=tests.kindling.training.test_train.WithoutNet"
    assert mistakes("train", "digits", *LITTLE, task, "net.channels=[8]") == [
        "net.channels: WithoutNet takes no net, so it has no effect; remove it (command line)"
    ]
    assert list(logs.iterdir()) == []
    train("digits", task)


@pytest.mark.plots
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_test_epoch_end"])
def test_deleted_run_ends_training(
    hook: str, logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deleted = []
    original = getattr(Classification, hook)

    def delete(task: Classification) -> None:
        original(task)
        if not task.trainer.fast_dev_run:  # else it is the rehearsal's
            (path,) = (logs / "digits").iterdir()
            shutil.rmtree(path)
            deleted.append(path)

    monkeypatch.setattr(Classification, hook, delete)
    with pytest.raises(TrainingError) as caught:
        call("train", "digits", *LITTLE)
    assert caught.value.lines == [
        f"{deleted[0]}: deleted or moved during the training; train again, or resume it from its "
        "new place"
    ]
    assert caught.value.status == 1
    assert list(logs.rglob("*")) == []
    captured = capsys.readouterr()
    assert "continues" not in captured.out
    assert captured.err == ""


def test_deleted_best_checkpoint_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = []

    def delete(task: Classification) -> None:
        if not task.trainer.fast_dev_run:
            saved.append(Path(task.trainer.default_root_dir) / "checkpoints" / "best.ckpt")
            saved[0].unlink()

    monkeypatch.setattr(Classification, "on_train_end", delete)
    train("digits")
    line = f"no best checkpoint: {saved[0]} was deleted; the metrics are of the last weights"
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "trainer.accumulate_grad_batches=0",
            "trainer.accumulate_grad_batches: expected a number of at least 1, got 0 (command line)",
        ),
        (
            "trainer.check_val_every_n_epoch=0",
            "trainer.check_val_every_n_epoch: expected a number of at least 1, got 0 (command line)",
        ),
        (
            "trainer.overfit_batches=2",
            "trainer.overfit_batches: Kindling's data have no fixed order; train on few samples instead: "
            "data.split=[128,64,64] trainer.max_epochs=100 (command line)",
        ),
    ],
)
def test_settings_that_lightning_does_not_name(word: str, line: str, logs: Path) -> None:
    assert mistakes("train", "digits", word) == [line]
    assert folders(logs) == []
