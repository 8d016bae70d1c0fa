"""The direction of what is monitored follows from the metric, or is asked for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassHammingDistance

from src.kindling.config import instantiate
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from src.kindling.nn.metrics import LabelF1
from src.kindling.runs.run import Run
from src.kindling.studies.plan import Plan
from src.kindling.training.build import build_data, build_task
from src.kindling.training.monitor import Monitor, choose_monitor, infer_mode, mode_of_callback
from src.kindling.training.rehearsal import rehearse
from src.kindling.training.trained_run import load_run
from src.kindling.training.trainer import build_trainer
from src.tasks.classification import Classification
from tests.conftest import as_own_task, checked, mistakes, train


class Measured(nn.Module):
    """A module with metrics of which some have a direction."""

    def __init__(self) -> None:
        super().__init__()
        self.val_quality = MulticlassAccuracy(3)
        self.undirected = MeanMetric()
        self.each = LabelF1(["a", "loss"])


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/loss", "min"),
        ("val_loss", "min"),
        ("val/mean_predictor_rmse", "min"),
        ("valid-PPL", "min"),
        ("val/accuracy", "max"),
        ("val_acc", "max"),
        ("val/f1_cat", "max"),
        ("val/R2", "max"),
        ("val/dice_loss", "min"),
        ("val/quality", "max"),
        ("val_f1", "max"),
        ("val/f1", "max"),
        ("val/f1_loss", "max"),
        ("val/undirected", None),
        ("val/score", None),
        ("val/similar", None),
        ("val_MulticlassF1Score", "max"),
        ("val_MeanSquaredError", "min"),
        ("val/mIoU", "max"),
        ("val/neg_mae", None),
    ],
)
def test_mode_follows_from_metric_then_from_name(name: str, mode: str | None) -> None:
    assert infer_mode(name, Measured())[0] == mode


class Logging(LightningModule):
    """Logs torchmetrics objects, as Lightning's documentation says, by names that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.good = MulticlassAccuracy(10)
        self.bad = MetricCollection({"score": MulticlassHammingDistance(10)}, prefix="val_bad_")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        outputs = self.layer(x.flatten(1))
        self.good(outputs, y)
        self.bad(outputs, y)
        self.log("val_score", self.good, on_step=True, on_epoch=True)
        self.log_dict(self.bad)
        self.log("val_own", outputs.mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_mode_of_logged_torchmetrics_object(
    parts: tuple[Any, LightningModule], capsys: pytest.CaptureFixture[str]
) -> None:
    task = Logging()
    logged = rehearse(checked("digits"), parts[0], task)
    names = ("val_score", "val_score_epoch", "val_bad_score")
    assert logged is not None
    assert set(logged) == {*names, "val_own"}
    monitors = [
        choose_monitor(instantiate.values(checked("digits", f"monitor={name}")), task, logged)
        for name in names
    ]
    assert [monitor.mode for monitor in monitors] == ["max", "max", "min"]
    assert capsys.readouterr().out.splitlines() == [
        "monitor: val_score, higher is better (by its torchmetrics class)",
        "monitor: val_score_epoch, higher is better (by its torchmetrics class)",
        "monitor: val_bad_score, lower is better (by its torchmetrics class)",
    ]
    values = instantiate.values(checked("digits"))
    losses = {"val_loss": None, "val_loss_epoch": None}
    assert choose_monitor(values, task, losses).mode == "min"
    values = instantiate.values(checked("digits", "monitor=val/loss"))  # the other spelling
    assert choose_monitor(values, task, losses).name == "val_loss"


def test_monitor_of_the_task_where_validation_logs_nothing(
    parts: tuple[Any, LightningModule],
) -> None:
    task = Logging()
    task.monitor = "train_loss"  # read by a schedule of its own
    values = instantiate.values(checked("digits"))
    assert choose_monitor(values, task, {}).name is None
    with pytest.raises(InputError):
        choose_monitor(values, task, {"val_acc": None})
    del task.monitor
    assert choose_monitor(values, task, None).name == "val/loss"  # it could not be rehearsed
    assert choose_monitor(values, LightningModule(), None).name is None


def test_unmonitored_early_stopping_is_refused(parts: tuple[Any, LightningModule]) -> None:
    section = {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}
    with pytest.raises(InputError) as caught:
        mode_of_callback("stop", section, Monitor(None, logged={"a": None, "b": None}), parts[1])
    assert caught.value.lines == [
        "callbacks.stop.monitor: nothing is monitored; set it (logged: a, b)"
    ]
    section["_target_"] = "lightning.pytorch.callbacks.ModelCheckpoint"  # which needs none
    assert mode_of_callback("stop", section, Monitor(None), parts[1]) == "min"


def test_mode_against_the_metric_is_printed(
    parts: tuple[Any, LightningModule], capsys: pytest.CaptureFixture[str]
) -> None:
    values = instantiate.values(checked("digits", "monitor=val/accuracy", "mode=min"))
    assert choose_monitor(values, parts[1], {"val/accuracy": None}).mode == "min"
    assert capsys.readouterr().out == (
        "mode: min, but higher is better for val/accuracy (by its torchmetrics class); "
        "remove mode\n"
    )


def test_accuracy_without_mode_keeps_the_highest(capsys: pytest.CaptureFixture[str]) -> None:
    result = train(
        "digits",
        "monitor=val/accuracy",
        "trainer.max_epochs=4",
        "trainer.limit_train_batches=20",
        "trainer.limit_val_batches=1.0",
    )
    with (result.run.path / "metrics.csv").open() as file:
        accuracies = [
            float(row["val/accuracy"]) for row in csv.DictReader(file) if row["val/accuracy"]
        ]
    assert min(accuracies) < max(accuracies)
    assert result.score == pytest.approx(max(accuracies))
    assert result.metrics["val/accuracy"] == pytest.approx(max(accuracies))
    assert load_run(result.run.path).checkpoint["epoch"] == accuracies.index(max(accuracies))
    assert (
        "monitor: val/accuracy, higher is better (by its torchmetrics class)"
        in capsys.readouterr().out
    )


@pytest.fixture(scope="module")
def parts() -> tuple[Any, LightningModule]:
    """Data and task of digits."""
    config = checked("digits")
    data = build_data(config)
    return data, build_task(config, data)


def built(
    section: str, parts: tuple[Any, LightningModule], logs: Path, *words: str
) -> dict[type, Any]:
    """The callbacks of a Trainer for `callbacks.stop` and monitor val/auroc, by class."""
    data, task = parts
    config = checked("digits", f"callbacks.stop={{{section}}}", "monitor=val/auroc", *words)
    run = Run(logs / "run")
    trainer = build_trainer(config, run, task, data, Monitor("val/auroc", "max"))
    return {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        (["monitor: val/accuracy"], "max"),
        (["monitor: val/f1"], "max"),
        (["monitor: val/loss"], "min"),
        ([], "max"),
        (["monitor: '${monitor}'"], "max"),
        (["monitor: val/accuracy", "mode: min"], "min"),
    ],
)
def test_mode_of_callback_with_own_monitor(
    words: list[str], mode: str, parts: tuple[Any, LightningModule], logs: Path
) -> None:
    target = "_target_: lightning.pytorch.callbacks.EarlyStopping"
    stop = built(", ".join([target, *words]), parts, logs)[EarlyStopping]
    assert stop.mode == mode
    assert stop.monitor == (
        words[0].removeprefix("monitor: ") if words and "$" not in words[0] else "val/auroc"
    )


class Undirected(MeanMetric):
    """A metric of which nobody says whether more is better."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs.mean())


class Scored(Classification):
    """Monitors a score of its own, of which more is better."""

    monitor, mode = "val/own", "max"

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        super().__init__(net, spec, metrics={"own": Undirected()})


def test_mode_of_the_class_belongs_to_its_monitor(parts: tuple[Any, LightningModule]) -> None:
    task = Scored(nn.Linear(64, 10), parts[0].spec)
    for words, mode in (([], "max"), (["monitor=val/own"], "max"), (["monitor=val/loss"], "min")):
        values = instantiate.values(checked("digits", *words))
        assert choose_monitor(values, task, {"val/own": None, "val/loss": None}).mode == mode


STOP = "callbacks.es._target_=lightning.pytorch.callbacks.EarlyStopping"


def test_unlogged_monitor_of_callback_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Logs(Callback):
        """May log what the other callback monitors."""

    def rehearsed(*words: str) -> None:
        config = checked("digits", STOP, *words)
        data = build_data(config)
        rehearse(config, data, build_task(config, data))

    key = "callbacks.es.monitor"
    assert mistakes("train", "digits", STOP, f"{key}=val_loss", "callbacks.es.mode=min") == [
        f"{key}: 'val_loss' is not logged; did you mean 'val/loss'? (command line)"
    ]
    with pytest.raises(InputError, match=f"{key}: 'val/los' is not .*'val/loss'"):
        rehearsed(f"{key}=val/los")  # the mode is unknown too
    rehearsed(f"{key}=fid")  # of every tenth epoch, perhaps
    rehearsed(f"{key}=train/loss")
    rehearsed(f"{key}=val/los", "callbacks.es.strict=false")
    own = as_own_task(Logs, monkeypatch).replace("task.", "callbacks.own.")
    rehearsed(f"{key}=val/los", own)


def test_callback_without_a_mode_needs_none(
    parts: tuple[Any, LightningModule], logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watch(Callback):
        def __init__(self, monitor: str) -> None:
            self.monitor = monitor

    target = as_own_task(Watch, monkeypatch).removeprefix("task._target_=")
    assert built(f"_target_: {target}, monitor: val/own", parts, logs)[Watch].monitor == "val/own"


def test_unknown_direction_is_asked_for_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (
        as_own_task(Undirected, monkeypatch).replace(
            "task._target_=", "task.metrics.own={_target_: "
        )
        + "}"
    )
    with pytest.raises(InputError) as caught:
        train("digits", own, "monitor=val/own")
    assert caught.value.lines == [
        "mode: unknown whether a higher or a lower 'val/own' is better; set mode=max or mode=min "
        "(logged: val/accuracy, val/auroc, val/f1, val/loss, val/own, val/precision, val/recall)"
    ]
    with pytest.raises(
        InputError, match=r"^callbacks\.stop\.mode: unknown whether a higher or a lower 'val/own'"
    ):
        train(
            "digits",
            own,
            "callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: "
            "val/own}",
        )
    config = checked("digits", own, "monitor=val/own", "mode=max")
    assert config.values["mode"] == "max"


def test_study_maximizes_accuracy_without_mode() -> None:
    plan = Plan("digits", ("monitor=val/accuracy",), "tune_1", {}).with_monitor({})
    assert (plan.monitor, plan.mode) == ("val/accuracy", "max")


def test_validation_that_logs_nothing_keeps_last_ckpt(capsys: pytest.CaptureFixture[str]) -> None:
    values = instantiate.values(checked("digits"))
    assert choose_monitor(values, LightningModule(), None).name is None
    assert choose_monitor(values, Logging(), {}).name is None
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("monitor: validation logs no metric, so last.ckpt is kept and there is")
    choose_monitor(values, Logging(), None)
    assert "validation logs no metric" not in capsys.readouterr().out
