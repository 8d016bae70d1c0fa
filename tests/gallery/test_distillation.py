"""Distillation: its loss, its teacher, which is only asked, and what a run without one says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from src.gallery.distillation import Distillation, TransferSet, distillation_loss
from src.kindling.config import InputError
from src.kindling.training import TrainedRun, load_run
from tests.conftest import kept_runs, train

VALIDATES = "trainer.check_val_every_n_epoch=1"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedRun]:
    with kept_runs(tmp_path_factory):
        yield train("digits").run


def test_distillation_loss_by_hand() -> None:
    student, teacher = (
        torch.tensor([[0.0, 0.0]]),
        torch.tensor([[0.0, 2 * torch.tensor(3.0).log()]]),
    )
    # At temperature 2: 1/2 and 1/2 against 1/4 and 3/4.
    divergence = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(4 * divergence.item())
    assert distillation_loss(teacher, teacher, 2.0).item() == pytest.approx(0)


def make_task(**arguments: object) -> Distillation:
    data = TransferSet()
    data.setup()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Distillation(net, data.spec, **arguments)  # type: ignore[arg-type]


def test_teacher_is_only_asked(teacher: TrainedRun) -> None:
    task = make_task(teacher=str(teacher.path))
    task.on_fit_start()
    task.train()
    module = task.teacher_task
    assert module is not None
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert not any(part.training for part in module.modules())
    assert len([*task.parameters()]) == 2
    assert task.state_dict().keys() == {"net.1.weight", "net.1.bias"}
    task.training_step((torch.randn(8, 1, 8, 8), torch.arange(8)), 0).backward()
    assert all(value.grad is None for value in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("weight", [0.0, 0.75, 1.0])
def test_weight_is_the_share_of_the_teacher(teacher: TrainedRun, weight: float) -> None:
    torch.manual_seed(0)
    task = make_task(teacher=str(teacher.path), weight=weight, mix=False, temperature=3.0)
    task.on_fit_start()
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    logits = task(x)
    soft = distillation_loss(logits, teacher.task(x), 3.0)
    expected = (1 - weight) * nn.functional.cross_entropy(logits, y) + weight * soft
    assert task.training_step((x, y), 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_student_is_evaluated_without_its_teacher(teacher: TrainedRun, logs: Path) -> None:
    result = train("distillation", f"task.teacher={teacher.path}", VALIDATES)
    run = load_run(result.run.path)
    assert run.checkpoint["teacher"] == str(teacher.path)
    assert not [name for name in run.checkpoint["state_dict"] if "body.0.weight" in name][1:]
    run.checkpoint["teacher"] = "no longer there"
    assert run.predict(torch.zeros(2, 1, 8, 8))["prediction"].shape == (2,)


def test_only_some_images_are_trained_on() -> None:
    data = TransferSet(images=30)
    data.setup()
    data.setup("fit")
    assert {stage: len(index) for stage, index in data.indices.items()} == {
        "train": 30,
        "val": 270,
        "test": 270,
    }


def test_missing_teacher_is_one_line(logs: Path) -> None:
    line = "task.teacher: digits/latest: no run yet of digits; there are runs of: none; "
    line += "train it first: python -m src.train digits; or set task.teacher=null"
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        train("distillation")


def test_teacher_of_another_split_is_refused(teacher: TrainedRun) -> None:
    with pytest.raises(
        InputError, match=r"^task.teacher: .* was trained on other data, or another"
    ):
        train("distillation", f"task.teacher={teacher.path}", "data.split_seed=1")


def test_distillation_trains_without_a_teacher() -> None:
    result = train("distillation", "task.teacher=null", VALIDATES)
    assert {"val/loss", "val/accuracy", "test/accuracy"} <= result.metrics.keys()
