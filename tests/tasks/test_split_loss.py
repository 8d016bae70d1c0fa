"""The loss of validation and test is that of the whole split, whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.kindling.data.masks import IGNORED
from src.kindling.data.spec import Spec
from src.kindling.nn import CrossEntropyDiceLoss
from src.kindling.nn.losses import DiceLoss
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from src.tasks.multilabel import Multilabel
from src.tasks.regression import Regression
from src.tasks.segmentation import Segmentation
from tests.conftest import train

N, K = 75, 3  # uneven last batches of 8 and 32


class OwnLoss(nn.Module):
    """The spread of errors: no mean over samples."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.from_sums(self.sums(outputs, targets))

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = outputs - targets
        return torch.stack([errors.sum(), errors.square().sum(), torch.tensor(errors.numel())])

    def from_sums(self, sums: Tensor) -> Tensor:
        return sums[1] / sums[2] - (sums[0] / sums[2]).square()


def classes(loss: nn.Module) -> tuple[Any, Tensor, Tensor]:
    spec = Spec((K,), K, "table", classes=("a", "b", "c"), class_counts=(60, 10, 5))
    y = torch.arange(N) % 15
    y = torch.where(y < 11, 0, torch.where(y < 14, 1, 2))
    return Classification(nn.Identity(), spec, loss=loss, class_weights=None), torch.randn(N, K), y


def labels(loss: nn.Module) -> tuple[Any, Tensor, Tensor]:
    spec = Spec((K,), K, "table", classes=("a", "b", "c"), target_mean=(0.5, 0.2, 0.1))
    spec = Spec(**{**spec.__dict__, "target_shape": (K,)})
    y = (torch.rand(N, K) < torch.tensor([0.5, 0.2, 0.1])).long()
    return Multilabel(nn.Identity(), spec, loss=loss), torch.randn(N, K), y


def values(loss: nn.Module) -> tuple[Any, Tensor, Tensor]:
    spec = Spec((1,), 1, "table", target_shape=(1,), target_mean=(0.0,), target_std=(1.0,))
    return Regression(nn.Identity(), spec, loss=loss), torch.randn(N, 1), torch.randn(N, 1)


def masks(loss: nn.Module) -> tuple[Any, Tensor, Tensor]:
    names = ("background", "b", "c")
    spec = Spec((K, 6, 5), K, "image", classes=names, target_shape=(6, 5))
    y = torch.randint(0, 2, (N, 6, 5))
    y[:20] *= 0  # batches without a class, with few pixels of another, and with none that counts
    y[70, 0, 0] = 2
    y[30:40] = IGNORED
    y[:5, :4] = IGNORED
    return Segmentation(nn.Identity(), spec, loss=loss), torch.randn(N, K, 6, 5), y


WEIGHT = torch.tensor([0.3, 2.0, 5.0])
LOSSES: dict[str, tuple[Callable[[nn.Module], tuple[Any, Tensor, Tensor]], nn.Module]] = {
    "cross_entropy": (classes, nn.CrossEntropyLoss()),
    "weighted": (classes, nn.CrossEntropyLoss(weight=WEIGHT)),
    "weighted_smoothed": (classes, nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)),
    "ignoring": (classes, nn.CrossEntropyLoss(ignore_index=1)),
    "summed": (classes, nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum")),
    "summed_values": (values, nn.MSELoss(reduction="sum")),
    "nll": (classes, nn.NLLLoss(weight=WEIGHT)),
    "margin": (classes, nn.MultiMarginLoss(weight=WEIGHT)),
    "bce": (labels, nn.BCEWithLogitsLoss()),
    "bce_weighted": (labels, nn.BCEWithLogitsLoss(pos_weight=WEIGHT)),
    "mse": (values, nn.MSELoss()),
    "l1": (values, nn.L1Loss()),
    "huber": (values, nn.HuberLoss()),
    "own": (values, OwnLoss()),
    "pixels": (masks, nn.CrossEntropyLoss()),
    "pixels_weighted": (masks, nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)),
    "dice": (masks, DiceLoss()),
    "cross_entropy_dice": (masks, CrossEntropyDiceLoss(dice=0.5, label_smoothing=0.1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_whole_split(name: str) -> None:
    torch.manual_seed(0)
    make, loss = LOSSES[name]
    task, x, y = make(loss)
    task.eval()
    target = y.float() if make is labels else y
    expected = loss(x, target).item()  # one batch of all samples
    for stage, step in (("val", task.validation_step), ("test", task.test_step)):
        for size in (8, 32, N):
            for i, start in enumerate(range(0, N, size)):
                step((x[start : start + size], y[start : start + size]), i)
            meter = getattr(task, f"{stage}_meter")
            assert meter.compute()[f"{stage}/loss"].item() == pytest.approx(expected, rel=1e-6)
    # In training it is the mean of the batches' losses, which are what the optimizer gets.
    task.train()
    total, count = 0.0, 0
    for i, (some, wanted) in enumerate(zip(x.split(8), target.split(8), strict=True)):
        if not bool((wanted == IGNORED).all()):
            task.training_step((some, wanted), i)
            total += loss(some, wanted).item() * len(some)
            count += len(some)
    found = task.train_meter.compute()["train/loss"].item()
    assert found == pytest.approx(total / count, rel=1e-5)


def test_run_measures_whole_splits() -> None:
    """Through the Trainer, with accumulated gradients."""
    words = ["task.class_weights=balanced", "trainer.accumulate_grad_batches=2"]
    whole = ["trainer.limit_val_batches=1.0", "trainer.limit_test_batches=1.0"]
    result = train("digits", *words, *whole, "trainer.max_epochs=1")
    run = load_run(result.run.path)
    data: Any = run.data()
    for stage in ("val", "test"):
        numbers = data.indices[stage]
        x, y = data.samples.x[numbers], data.samples.y[numbers]
        with torch.inference_mode():
            logits = run.task(run.preprocess(x))
        weight: Any = run.task.loss.weight  # type: ignore[union-attr]
        expected = nn.functional.cross_entropy(logits, y, weight=weight).item()
        assert result.metrics[f"{stage}/loss"] == pytest.approx(expected, rel=1e-6)


def test_search_announces_own_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.kindling.config.command import Parser
    from src.kindling.studies import search

    flags = Parser("tune", "").parse_args([])
    for flag in ("name", "storage", "plots"):
        setattr(flags, flag, None)
    flags.words, flags.trials, flags.sampler, flags.pruner = ["digits", "default"], 1, "tpe", "none"
    flags.workers = 1
    for known in (True, False):
        monkeypatch.setattr(search, "KNOWN_LOSSES", ("torch.",) if known else ())
        search.plan_search(flags)
        line = "task.loss: unless it is a mean over samples, it depends on the batch size; monitor"
        assert (line in capsys.readouterr().out) != known
