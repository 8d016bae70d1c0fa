"""Fine-tuning: frozen parameters stay bit-identical, others train at the configured rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from src.kindling.config.errors import InputError
from src.kindling.nn.backbones import find_head
from src.kindling.training.fit import Result
from src.nets.cnn import CNN
from tests.conftest import kept_runs, mistakes, train

HALF = ("data.classes=[5,6,7,8,9]", "trainer.max_epochs=4", "task.optimizer.lr=0.1")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    """A run on the other half of the digits' classes."""
    with kept_runs(tmp_path_factory):
        yield train("digits", "data.classes=[0,1,2,3,4]")


def saved(result: Result, file: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(result.run.checkpoints / f"{file}.ckpt", weights_only=True)
    return content


def changed(before: Result, after: Result) -> set[str]:
    old, new = saved(before, "best")["state_dict"], saved(after)["state_dict"]
    return {
        name for name in new if name.startswith("net.") and not torch.equal(old[name], new[name])
    }


def test_head_leaves_backbone_unchanged(before: Result, capsys: pytest.CaptureFixture[str]) -> None:
    after = train("digits", *HALF, "finetune=head", init=before.run)
    assert changed(before, after) == {"net.head.weight", "net.head.bias"}
    lines = capsys.readouterr().out.splitlines()
    assert "finetune: 5,125 of 24,037 parameters are trained; the backbone is frozen" in lines
    assert (
        "init: not loaded: net.head.weight ((5, 1024) here, there of other classes: 0, 1, 2, 3, 4)"
        in lines
    )
    assert len(saved(after)["optimizer_states"][0]["state"]) == 2


def test_gradual_trains_head_first(before: Result, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "finetune=gradual",
        "finetune.frozen_epochs=2",
        "task.scheduler._target_=torch.optim.lr_scheduler.StepLR",
        "task.scheduler.step_size=3",
    )
    head = {"net.head.weight", "net.head.bias"}
    after = train("digits", *HALF, *words, "trainer.max_epochs=2", init=before.run)
    assert changed(before, after) == head
    after = train("digits", *HALF, *words, init=before.run)
    assert changed(before, after) > head | {"net.body.0.weight", "net.body.1.running_mean"}
    rates = {
        group["lr_scale"]: group["lr"]
        for group in saved(after)["optimizer_states"][0]["param_groups"]
    }
    assert rates == pytest.approx({1.0: 0.01, 0.1: 0.001})  # after the schedule's step, both
    told = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("finetune", "epoch 3", "epoch 2"))
    ]
    assert told[-4:-1] == [
        "finetune: 5,125 of 24,037 parameters are trained; the backbone is frozen until epoch 2",
        told[-3],
        "finetune: 24,037 of 24,037 parameters are trained; the backbone at 0.1 of the learning "
        "rate",
    ]
    assert told[-3].startswith("epoch 2/4")


def test_all_trains_every_parameter(before: Result, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train("digits", *HALF, init=before.run)
    after = train("digits", *HALF, "finetune=all", init=before.run)
    assert changed(plain, after) == changed(plain, plain)
    assert (
        "finetune: 24,037 of 24,037 parameters are trained; all at one rate"
        in capsys.readouterr().out.splitlines()
    )


def test_onecycle_keeps_lr_ratio(before: Result) -> None:
    words = (
        "finetune=all",
        "finetune.backbone_lr_ratio=0.25",
        "task.decay_bias_and_norm=false",
        "trainer.max_epochs=1",
        "task.scheduler={_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.2}",
    )
    groups = saved(train("digits", *HALF, *words))["optimizer_states"][0]["param_groups"]
    assert [(group["lr_scale"], group["max_lr"], group["weight_decay"]) for group in groups] == [
        (0.25, 0.05, 0.01),
        (1.0, 0.2, 0.01),
        (0.25, 0.05, 0.0),
        (1.0, 0.2, 0.0),
    ]


def nets() -> Iterator[tuple[nn.Module, str]]:
    from torchvision import models

    yield CNN((1, 8, 8), 3), "head"
    yield models.resnet18(), "fc"
    yield models.mobilenet_v3_small(), "classifier.3"
    yield nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(dim=1)), "2"


def test_find_head() -> None:
    for net, head in nets():
        assert find_head(net) == head
    with pytest.raises(InputError, match="net: ReLU has no layer with parameters"):
        find_head(nn.ReLU())


def test_head_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", "net=mlp", "finetune=head", "finetune.head=body.3")
    assert (
        "finetune: 4,160 of 8,970 parameters are trained; the backbone is frozen"
        in capsys.readouterr().out
    )


def test_mistakes_are_one_line() -> None:
    assert mistakes("train", "digits", "finetune=hed") == [
        "finetune=hed: no such option; did you mean 'head'? (configs/finetune/ has: all, gradual, "
        "head) (command line)"
    ]
    with pytest.raises(InputError) as caught:
        train("digits", "finetune=head", "finetune.head=haed")
    assert caught.value.lines == ["finetune.head: CNN has no part 'haed'; did you mean 'head'?"]
    with pytest.raises(InputError) as caught:
        train("digits", "finetune=head", "finetune.head=fc")
    assert caught.value.lines == ["finetune.head: CNN has no part 'fc' (it has: body, head)"]
    with pytest.raises(InputError) as caught:
        train("digits", "finetune=gradual", "finetune.frozen_epochs=-1")
    assert caught.value.lines == [
        "finetune: Finetune: frozen_epochs: expected at least 0, or 'all', got -1 (command line)"
    ]
    target = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    swa = f"callbacks.swa={{_target_: {target}, swa_lrs: 0.01}}"
    with pytest.raises(InputError) as caught:
        train("digits", "finetune=head", swa)
    assert caught.value.lines == [
        "callbacks: StochasticWeightAveraging would recompute the norm statistics of the frozen "
        "backbone; use lightning.pytorch.callbacks.EMAWeightAveraging"
    ]
