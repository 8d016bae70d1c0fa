"""A training that is killed and resumed, any number of times, ends as one that was not: to the last bit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MaxMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.training.fit import fit
from src.tasks.classification import Classification
from tests.conftest import as_own_task, checked
from tests.interruption import Killed, install_kill

WORDS = (
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=8",
    "trainer.limit_val_batches=2",
    "num_threads=1",
    "trainer.limit_test_batches=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=3",
    "net.dropout=0.2",
    "checkpoint_minutes=0",
    "data.train_transforms=[{_target_: src.kindling.data.augment.RandomAffine, degrees: 10}]",
)
CASES: dict[str, list[str]] = {
    "plain": [],
    "workers": [
        "data.num_workers=2",
        "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}]",
    ],
    "accumulated": ["trainer.accumulate_grad_batches=3"],
    "onecycle": [
        "task.scheduler={_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.01}",
        "trainer.accumulate_grad_batches=2",
    ],
    "plateau": [
        "task.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, patience: 0, threshold: 0.9}"
    ],
    "half epochs": ["trainer.val_check_interval=0.5"],
    "every other epoch": ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"],
    "early stopping": [
        "callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, patience: 1, "
        "min_delta: 0.9}",
        "trainer.max_epochs=5",
    ],
    "averaged": [
        "callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}"
    ],
    "averaged equally": [
        "callbacks.average={_target_: lightning.pytorch.callbacks.WeightAveraging}"
    ],
    "swa": [
        "callbacks.swa={_target_: lightning.pytorch.callbacks.StochasticWeightAveraging, swa_lrs: 0.01, "
        "swa_epoch_start: 1, annealing_epochs: 2}"
    ],
    "swa without norms": [
        "net._target_=src.nets.mlp.MLP",
        "net.dropout=0.2",
        "callbacks.swa={_target_: "
        "lightning.pytorch.callbacks.StochasticWeightAveraging, swa_lrs: 0.01, swa_epoch_start: 2}",
    ],
    "head": ["finetune=head"],
    "gradual": ["finetune=gradual", "finetune.frozen_epochs=1"],
    "gradual and averaged": [
        "finetune=gradual",
        "finetune.frozen_epochs=2",
        "trainer.accumulate_grad_batches=2",
        "callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}",
    ],
    "steps": ["trainer.max_steps=21", "trainer.max_epochs=-1"],
    "momentum": [
        "task.optimizer={_target_: torch.optim.SGD, lr: 0.05, momentum: 0.9, nesterov: true}",
        "trainer.gradient_clip_val=0.5",
    ],
}

# What others of them go through as well.
LONG = (
    "accumulated",
    "early stopping",
    "every other epoch",
    "gradual and averaged",
    "averaged",
    "averaged equally",
    "gradual",
    "head",
    "momentum",
    "plateau",
    "steps",
    "swa without norms",
)


def ending(run: Run) -> dict[str, str]:
    """What a training left, as texts and hashes."""
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    best = torch.load(run.checkpoints / "best.ckpt", weights_only=True)
    found = {
        f"last {key}": _hash(content[key])
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops")
    }
    found |= {
        "best": _hash(best["state_dict"]),
        "step": str(content["global_step"]),
        "best step": str(best["global_step"]),
    }
    return found | {
        name: (run.path / name).read_text()
        for name in ("metrics.csv", "steps.csv", "metrics.json", "split.csv")
    }


def _hash(value: Any) -> str:
    digest = hashlib.sha256()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                walk(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)
        elif isinstance(value, torch.Tensor):
            digest.update(value.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    walk(value)
    return digest.hexdigest()


Endings = dict[tuple[str, ...], dict[str, str]]


@pytest.fixture(scope="module")
def endings() -> Endings:
    """What uninterrupted trainings left, by their words."""
    return {}


def uninterrupted(endings: Endings, *words: str) -> dict[str, str]:
    """What the training leaves that is never killed; tests share it, however often they save."""
    words = tuple(word for word in words if not word.startswith("checkpoint_minutes"))
    if words not in endings:
        config = checked(*words)
        endings[words] = ending(fit(config, Run.claim(config.name)).run)
    return endings[words]


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the training killed at the end of its n-th batch from now, before anything of it is saved."""
    return install_kill(monkeypatch)


def killed_and_resumed(
    config: Any, kill: Callable[[int], None], after: Iterator[int]
) -> tuple[Run, int]:
    """Train, killed after so many batches each time, until the end."""
    run, kills = Run.claim(config.name), 0
    for batches in after:
        kill(batches)
        try:
            fit(config, run, resume=kills > 0)
            return run, kills
        except Killed:
            kills += 1
    raise AssertionError("never ended")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.long) if case in LONG else case for case in CASES]
)
def test_killed_anywhere_ends_the_same(
    case: str, kill: Callable[[int], None], endings: Endings
) -> None:
    words = ("digits", *WORDS, *CASES[case])
    whole, config = uninterrupted(endings, *words), checked(*words)
    run, kills = killed_and_resumed(
        config, kill, itertools.chain([2, 3, 4, 1, 5, 7, 3], itertools.repeat(40))
    )
    assert kills >= 3
    assert ending(run) == whole


@pytest.mark.parametrize(
    "name",
    [
        "localization",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("multilabel", "segmentation")),
    ],
)
def test_other_tasks_end_the_same(name: str, kill: Callable[[int], None]) -> None:
    config = checked(
        name, *WORDS, "data.scenes=[120,32,32]", "data.batch_size=16", "net.channels=[4,8]"
    )
    whole = fit(config, Run.claim(config.name)).run
    run, kills = killed_and_resumed(
        config, kill, itertools.chain([2, 3, 4, 1, 5], itertools.repeat(40))
    )
    assert kills >= 3
    assert ending(run) == ending(whole)


class Logging(LightningModule):
    """Logs as Lightning's documentation says, with torchmetrics of its own; no meters."""

    monitor, mode = "val/accuracy", "max"

    def __init__(self, net: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.net = net
        self.accuracy = MulticlassAccuracy(num_outputs)
        self.unlogged = MulticlassAccuracy(num_outputs)
        self.auroc = MulticlassAUROC(num_outputs)  # its state is a list
        self.val_accuracy, self.best_accuracy = MulticlassAccuracy(num_outputs), MaxMetric()

    def training_step(self, batch: Any, number: int) -> Tensor:
        logits = self.net(batch[0].float() / 16)
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch[1]))
        for fx in ("min", "max", "sum"):
            self.log(
                f"train/{fx}",
                loss,
                reduce_fx=fx,
                on_step=False,
                on_epoch=True,
                batch_size=len(batch[1]),
            )
        for part in (
            logits.softmax(dim=1).detach().max(dim=1).values.split(20)
        ):  # several times in a step
            self.log(
                "train/certain", part.mean(), on_step=False, on_epoch=True, batch_size=len(part)
            )
        if number == 0:  # and once in an epoch
            self.log("train/first", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        self.accuracy(logits, batch[1])
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.unlogged.update(logits, batch[1])
        self.auroc.update(logits, batch[1])
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/unlogged", self.unlogged.compute())
        self.log("train/auroc", self.auroc.compute())
        self.unlogged.reset()
        self.auroc.reset()

    def validation_step(self, batch: Any, _: int) -> None:
        logits = self.net(batch[0].float() / 16)
        self.val_accuracy(logits, batch[1])
        self.log("val/accuracy", self.val_accuracy, on_epoch=True)
        self.log(
            "val/loss", nn.functional.cross_entropy(logits, batch[1]), batch_size=len(batch[1])
        )

    def on_validation_epoch_end(self) -> None:
        self.best_accuracy.update(self.val_accuracy.compute())
        self.log("val/best", self.best_accuracy.compute())

    def test_step(self, batch: Any, number: int) -> None:
        self.log(
            "test/loss",
            nn.functional.cross_entropy(self.net(batch[0].float()), batch[1]),
            batch_size=len(batch[1]),
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    "words",
    [
        [],
        pytest.param(["trainer.val_check_interval=0.5"], marks=pytest.mark.long),
        pytest.param(["checkpoint_minutes=1000"], marks=pytest.mark.long),
    ],
)
def test_logged_averages_end_the_same(
    words: list[str],
    kill: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    endings: Endings,
) -> None:
    words = ["digits", *WORDS, as_own_task(Logging, monkeypatch), *words]
    whole, config = uninterrupted(endings, *words), checked(*words)
    kills = [2, 3, 4, 1, 5, 7, 3] if "checkpoint_minutes=1000" not in words else [3, 9, 8]
    run, count = killed_and_resumed(config, kill, itertools.chain(kills, itertools.repeat(40)))
    assert count >= 3
    header = whole["metrics.csv"].partition("\n")[0]
    assert {
        "train/loss_epoch",
        "train/first",
        "train/auroc",
        "train/accuracy_epoch",
        "val/best",
    } <= {*header.split(",")}
    assert ending(run) == whole


def test_saved_only_between_epochs_ends_the_same(
    kill: Callable[[int], None], endings: Endings
) -> None:
    words = ("digits", *WORDS, "checkpoint_minutes=1000")
    whole, config = uninterrupted(endings, *words), checked(*words)
    run, kills = killed_and_resumed(config, kill, iter([3, 8, 9, 40]))
    assert kills == 3
    assert ending(run) == whole


@pytest.mark.parametrize("batch", [0, 1])
def test_stopped_while_validating_validates_again(
    batch: int, monkeypatch: pytest.MonkeyPatch, endings: Endings
) -> None:
    words = ("digits", *WORDS, *CASES["half epochs"], "checkpoint_minutes=1000")
    whole, config = uninterrupted(endings, *words), checked(*words)
    step, seen = Classification.validation_step, itertools.count()

    def interrupted(self: Classification, of: Any, number: int) -> None:
        if self.trainer.state.fn == "fit" and number == batch and next(seen) in (1, 2, 4):
            noted[-1].received = 15
        step(self, of, number)

    noted: list[Interrupts] = []
    enter = Interrupts.__enter__
    monkeypatch.setattr(Interrupts, "__enter__", lambda self: (noted.append(self), enter(self))[1])
    monkeypatch.setattr(Classification, "validation_step", interrupted)
    run, statuses = Run.claim(config.name), []
    for _ in range(9):
        try:
            fit(config, run, resume=bool(statuses))
            break
        except Interrupted as end:
            statuses.append(end.code)
    assert statuses == [143, 143, 143]
    assert ending(run) == whole
