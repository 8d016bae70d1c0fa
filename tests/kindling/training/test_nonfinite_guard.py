"""A NaN/Inf loss or gradient never reaches the weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from src.kindling.config.errors import TrainingError
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.nonfinite_guard import NonFiniteGuard
from src.kindling.training.loaders import Loaders
from src.kindling.training.run_loggers import TensorBoard
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from tests.conftest import train


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int, gradients: bool = False) -> None:
    """Make the loss (or a gradient alone) NaN in the training's n-th batches."""
    step = Classification.training_step

    def spoiled(self: Classification, batch: Any, number: int) -> Any:
        loss = step(self, batch, number)
        if self._trainer is not None and self.trainer.global_step in steps:
            if not gradients:
                return loss * torch.nan
            self.net.head.bias.register_hook(lambda gradient: gradient * torch.inf)
        return loss

    monkeypatch.setattr(Classification, "training_step", spoiled)


def test_nan_loss_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 4)
    with pytest.raises(TrainingError) as caught:
        train("digits", "task.optimizer.lr=0.25")
    lines = caught.value.lines
    assert lines[0] == (
        "step 5 (epoch 2, batch 2): the loss is nan; training stopped before the optimizer step"
    )
    assert lines[1].startswith("  learning rate 0.")
    assert ", gradient norm nan" in lines[1]
    assert lines[3].startswith("  samples of the batch: ")
    assert lines[3].endswith(" and 54 more")
    assert "max_nonfinite_steps=10" in lines[4]
    run = load_run("latest")
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    meta = json.loads((run.path / "meta.json").read_text())
    assert meta["exit"] == "failed"
    assert meta["error"].startswith("step 5 (epoch 2, batch 2): the loss is nan")


class WithLR(LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()


class WithLearningRate(LightningModule):
    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()


class WithOptimizer(LightningModule):
    def __init__(self, optimizer: Any = None, lr: float = 0.1) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("task", "named"),
    [
        (WithLR, "task.lr"),
        (WithLearningRate, "task.learning_rate"),
        (WithOptimizer, "task.optimizer.lr"),
        (LightningModule, "learning rate"),
    ],
)
def test_advice_names_the_learning_rate_of_the_task(
    task: type[LightningModule], named: str
) -> None:
    lines = NonFiniteGuard(0, Loaders(0))._describe(task(), 0.1, [nn.Parameter(torch.ones(1))])
    assert lines[-1].startswith(f"  set a smaller {named} or trainer.gradient_clip_val=1;")


def test_infinite_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 1, gradients=True)
    with pytest.raises(TrainingError) as caught:
        train("digits")
    assert caught.value.lines[0].startswith("step 2 (epoch 1, batch 2): a gradient is NaN/Inf;")
    assert "  NaN/Inf gradients: net.head.bias" in caught.value.lines


def test_skip_up_to_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[torch.Tensor] = []
    end = Checkpoint.on_train_batch_end

    def on_train_batch_end(self: Checkpoint, trainer: Any, module: Any, *rest: Any) -> None:
        seen.append(module.net.head.weight.detach().clone())
        end(self, trainer, module, *rest)

    monkeypatch.setattr(Checkpoint, "on_train_batch_end", on_train_batch_end)
    spoil(monkeypatch, 1, 4)
    with pytest.raises(TrainingError):
        train("digits", "max_nonfinite_steps=1")
    output = capsys.readouterr().out
    assert "step 2: NaN/Inf loss or gradient; batch skipped (1 of at most 1)" in output
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")  # the batch's own loss
def test_skipped_batch_leaves_batch_norm_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Classification.training_step

    def spoiled(self: Classification, batch: Any, number: int) -> Any:
        if self._trainer is not None and self.trainer.global_step == 1:
            batch = batch[0] * torch.nan, batch[1]
        return step(self, batch, number)

    monkeypatch.setattr(Classification, "training_step", spoiled)
    run = train("digits", "max_nonfinite_steps=1").run
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    assert run.metrics["val/loss"] < 3
    assert "nan" not in (run.path / "metrics.csv").read_text()


def test_guard_state_key_is_kept_for_old_checkpoints() -> None:
    assert NonFiniteGuard(0, Loaders(0)).state_key == "Guard"


def test_nan_metric_saves_no_best_and_failing_logger_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def undefined(self: Classification) -> None:
        values = self.val_meter.compute()
        self.log_dict({**values, "val/loss": torch.tensor(torch.nan)})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Classification, "on_validation_epoch_end", undefined)
    monkeypatch.setattr(TensorBoard, "log_metrics", full)
    run = train("digits").run
    assert not (run.checkpoints / "best.ckpt").exists()
    output = capsys.readouterr().out
    assert "no best checkpoint: val/loss was never a finite number" in output
    line = "TensorBoard: OSError: [Errno 28] No space left on device; training continues without it"
    assert output.count(line) == 1
    assert run.metrics["test/accuracy"] > 0
