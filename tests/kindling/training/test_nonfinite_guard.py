"""A loss or a gradient that is no number never reaches the weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from src.kindling.config.errors import TrainingError
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.nonfinite_guard import NonFiniteGuard
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from tests.conftest import LITTLE, call, train


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


def test_a_loss_that_is_no_number_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("limit", [0, 1])
def test_what_is_read_later_is_left_out_at_once_and_told_in_full(
    limit: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "src.kindling.training.callbacks.nonfinite_guard.SYNCHRONOUS", ()
    )  # as on a GPU
    end = Checkpoint.on_train_batch_end
    monkeypatch.setattr(
        Checkpoint,
        "on_train_batch_end",
        lambda self, trainer, module, *rest: (
            seen.append(module.net.head.weight.detach().clone()),
            end(self, trainer, module, *rest),
        )[1],
    )
    spoil(monkeypatch, 1)
    if limit:
        train("digits", f"max_nonfinite_steps={limit}")
        assert (
            "step 2: NaN/Inf loss or gradient; batch skipped (1 of at most 1)"
            in capsys.readouterr().out
        )
        assert not torch.equal(seen[1], seen[2])
    else:
        with pytest.raises(TrainingError) as caught:
            train("digits", "task.optimizer.lr=0.25")
        lines = caught.value.lines
        assert lines[0].startswith("step 2 (epoch 1, batch 2): the loss is nan; ")
        assert lines[1].startswith("  learning rate 0.25, weight norm ")
        assert lines[3].endswith(" and 54 more")
    assert torch.equal(seen[0], seen[1])


def test_a_gradient_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 1, gradients=True)
    with pytest.raises(TrainingError) as caught:
        train("digits")
    assert caught.value.lines[0].startswith("step 2 (epoch 1, batch 2): a gradient is NaN/Inf;")
    assert "  NaN/Inf gradients: net.head.bias" in caught.value.lines


def test_bad_batches_can_be_left_out_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[torch.Tensor] = []
    end = Checkpoint.on_train_batch_end
    monkeypatch.setattr(
        Checkpoint,
        "on_train_batch_end",
        lambda self, trainer, module, *rest: (
            seen.append(module.net.head.weight.detach().clone()),
            end(self, trainer, module, *rest),
        )[1],
    )
    spoil(monkeypatch, 1, 4)
    call("train", "digits", *LITTLE, "max_nonfinite_steps=2")
    output = capsys.readouterr().out
    assert "step 2: NaN/Inf loss or gradient; batch skipped (1 of at most 2)" in output
    assert "step 5: NaN/Inf loss or gradient; batch skipped (2 of at most 2)" in output
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    with pytest.raises(TrainingError):
        train("digits", "max_nonfinite_steps=1")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.filterwarnings(
    "ignore:Encountered `nan` values in tensor"
)  # the loss of the batch itself
def test_a_batch_that_is_left_out_leaves_batch_norm_as_it_was(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Classification.training_step

    def spoiled(self: Classification, batch: Any, number: int) -> Any:
        if self._trainer is not None and self.trainer.global_step == 1:
            batch = batch[0] * torch.nan, batch[1]
        return step(self, batch, number)

    monkeypatch.setattr(Classification, "training_step", spoiled)
    if not at_once:
        monkeypatch.setattr("src.kindling.training.callbacks.nonfinite_guard.SYNCHRONOUS", ())
    run = train("digits", "max_nonfinite_steps=1").run
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    assert run.metrics["val/loss"] < 3
    rows = (run.path / "metrics.csv").read_text()
    assert "nan" not in rows


def test_guard_state_key_is_kept_for_old_checkpoints() -> None:
    assert NonFiniteGuard().state_key == "Guard"


def test_a_metric_that_is_never_a_number_leaves_no_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def undefined(self: Classification) -> None:
        values = self.val_meter.compute()
        self.log_dict({**values, "val/loss": torch.tensor(torch.nan)})

    monkeypatch.setattr(Classification, "on_validation_epoch_end", undefined)
    run = train("digits").run
    assert not (run.checkpoints / "best.ckpt").exists()
    assert "no best checkpoint: val/loss was never a finite number" in capsys.readouterr().out


def test_a_failing_logger_lets_the_training_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.kindling.training.callbacks.tensorboard import TensorBoard

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoard, "log_metrics", full)
    run = train("digits").run
    assert (run.checkpoints / "best.ckpt").exists()
    told = "TensorBoard: OSError: [Errno 28] No space left on device; training continues without it"
    assert capsys.readouterr().out.count(told) == 1
