"""The rehearsal before a training: what it refuses, with its messages, and no side effects."""

from __future__ import annotations

import copy
import errno
import os
import random
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.runs.run import Run
from src.kindling.training import rehearsal
from src.kindling.training.build import build_data, build_task
from src.kindling.training.rehearsal import check_disk, rehearse
from src.tasks.classification import Classification
from tests.conftest import LITTLE, checked, mistakes

RGB = "[{_target_: torchvision.transforms.v2.RGB}]"
COLOURS = (f"data.train_transforms={RGB}", f"data.eval_transforms={RGB}")


@pytest.fixture(scope="module")
def digits() -> DataModule:
    return build_data(checked("digits"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "run"
    path.mkdir()
    return Run(path)


def made(name: str, *words: str) -> tuple[DataModule, LightningModule]:
    config = checked(name, "num_threads=1", *words)
    data = build_data(config)
    return data, build_task(config, data)


def preflight(data: DataModule, task: LightningModule) -> tuple[str, ...] | None:
    return rehearse(checked("digits"), data, task)


def line(data: DataModule, task: LightningModule) -> str:
    with pytest.raises(InputError) as caught:
        preflight(data, task)
    (only,) = caught.value.lines
    return only


class Net(nn.Module):
    """Flattens digits and does with the outputs what a test wants."""

    def __init__(self, change: Any = lambda outputs: outputs, width: int = 10) -> None:
        super().__init__()
        self.change = change
        self.linear = nn.Linear(64, width)

    def forward(self, x: Tensor) -> Any:
        return self.change(self.linear(x.flatten(1)))


# --------------------------------------------------------------------------------------------------
# No trace


def numbers(task: LightningModule) -> list[Tensor]:
    """Return all tensors of a task, with the states of its metrics and meters."""
    meters = [task.train_meter, task.val_meter, task.test_meter]  # type: ignore[attr-defined]
    metrics = [part for meter in meters for part in meter.modules() if isinstance(part, Metric)]
    states = [value for metric in metrics for value in metric.metric_state.values()]
    held = [
        torch.as_tensor(value)
        for state in states
        for value in (state if isinstance(state, list) else [state])
    ]
    return [*task.state_dict().values(), *task.buffers(), *held]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "digits",
            [
                "net.dropout=0.5",
                "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomRotation, "
                "degrees: 10}]",
            ],
        ),
        (
            "digits",
            [
                "net.dropout=0.5",
                "data.train_transforms=[{_target_: src.kindling.data.augment.MixUp}]",
            ],
        ),
        ("diabetes", ["net.batch_norm=true", "net.dropout=0.5"]),
        ("breast_cancer", []),
    ],
)
def test_rehearsal_changes_nothing(name: str, words: list[str]) -> None:
    data, task = made(name, *words)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = copy.deepcopy(numbers(task))
    modes = [module.training for module in task.modules()]
    preflight(data, task)
    drawn = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert drawn == (torch.rand(3).tolist(), random.random(), np.random.rand())
    assert len(before) == len(numbers(task))
    assert all(map(torch.equal, before, numbers(task)))
    assert all(parameter.grad is None for parameter in task.parameters())
    assert modes == [module.training for module in task.modules()]
    assert [meter.buffer for meter in (task.train_meter, task.val_meter, task.test_meter)] == [
        [],
        [],
        [],
    ]
    assert task._trainer is None
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in task.net.modules()
    )


# --------------------------------------------------------------------------------------------------
# The disk


def test_room_for_the_checkpoints(
    run: Run, digits: DataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10_240), nn.Linear(10_240, 10))
    task = Classification(layers, digits.spec)
    # 768,010 weights of 4 bytes: once in best; three times in last, previous and a new file each.
    weights = 4 * sum(parameter.numel() for parameter in task.parameters())
    rest = sum(value.nbytes for value in task.state_dict().values()) - weights
    free = 10 * weights + 4 * rest
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check_disk(run, task)
    free -= 1
    with pytest.raises(InputError) as caught:
        check_disk(run, task)
    assert caught.value.lines == [
        f"{run.path}: the checkpoints need 30 MiB, and 29 are free; make room, or let logs/ be a "
        "link elsewhere"
    ]
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").write_bytes(b"x")  # a resumed run's, which is replaced
    check_disk(run, task)


def test_folder_that_cannot_be_written(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))

    monkeypatch.setattr("src.kindling.runs.files.os.replace", refuse)
    (only,) = mistakes("train", "digits", *LITTLE)
    assert only.startswith(f"{logs / 'digits'}")
    assert only.endswith("its disk failed (input/output error); use another")
    assert list(logs.iterdir()) == []


# --------------------------------------------------------------------------------------------------
# Nets and losses that cannot work


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["net._target_=torchvision.models.resnet18"],
            "net: ResNet does not accept (13, 1, 8, 8) float32: Given groups=1, weight of size "
            "[64, 3, 7, 7], expected input[13, 1, 8, 8] to have 3 channels, but got 1 channels "
            "instead; add torchvision.transforms.v2.RGB to data.train_transforms and "
            "data.eval_transforms for three channels",
        ),
        (
            ["net._target_=torchvision.models.resnet18", *COLOURS],
            "net: ResNet returns (13, 1000) float32, but the task expects a tensor (13, 10); set "
            "net.num_classes='${spec.num_outputs}'",
        ),
        (
            ["net._target_=torchvision.models.alexnet", *COLOURS],
            "net: AlexNet does not accept (13, 3, 8, 8) float32: Given input size: "
            "(64x1x1). Calculated output size: "
            "(64x0x0). Output size is too small; set a larger data.size, or add "
            "torchvision.transforms.v2.Resize",
        ),
        (
            ["net=mlp", "net.batch_norm=true", "data.batch_size=1"],
            "net: MLP does not accept (1, 1, 8, 8) float32: Expected more than 1 value "
            "per channel when training, got "
            "input size torch.Size([1, 64]) (src/nets/mlp.py:47); batch normalization needs a "
            "larger data.batch_size",
        ),
        (
            ["net._target_=torch.nn.Flatten"],
            "net: Flatten has no parameter to train (requires_grad); choose another",
        ),
        (
            ["task.loss._target_=torch.nn.MSELoss"],
            "task.loss: MSELoss does not accept (13, 10) float32 and (13,) int64: The size of tensor "
            "a (10) must match the size of tensor b (13) at non-singleton dimension 1; "
            "set task.loss=null for the task's own loss, or check its arguments",
        ),
        (
            ["task.loss.weight=[1,2,3]"],
            "task.loss: CrossEntropyLoss does not accept (13, 10) float32 and (13,) int64: "
            "weight tensor should be defined either for all 10 classes or no classes but got weight tensor of "
            "shape: [3]; set task.loss=null for the task's own loss, or check its arguments",
        ),
        (
            ["task.loss.reduction=none"],
            "task: the loss is not one number; return its mean (task.loss.reduction)",
        ),
    ],
)
def test_rehearsal_config_mistakes(words: list[str], told: str) -> None:
    assert line(*made("digits", *words)) == told


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
def test_rehearsal_without_gpu() -> None:
    assert mistakes("train", "digits", "trainer=gpu") == [
        "trainer: No supported gpu backend found; set trainer.accelerator=auto"
    ]


def test_rehearsal_batch_as_large_as_outputs() -> None:
    assert line(*made("breast_cancer", "task.loss._target_=torch.nn.MSELoss")) == (
        "task.loss: MSELoss does not accept (13, 2) float32 and (13,) int64: The size of tensor a "
        "(2) must match the size of tensor b (13) at non-singleton dimension 1; "
        "set task.loss=null for the task's own loss, or check its arguments"
    )


def test_values_want_another_loss_than_classes() -> None:
    assert line(*made("diabetes", "task.loss._target_=torch.nn.NLLLoss")) == (
        "task.loss: NLLLoss does not accept (13, 1) float32 and (13, 1) float32: 0D or 1D target "
        "tensor expected, multi-target not supported; "
        "set task.loss=null for the task's own loss, or check its arguments"
    )


class Logits(NamedTuple):
    logits: Tensor
    aux: Tensor


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (
            Net(width=7),
            "net: Net returns (13, 7) float32, but the task expects a tensor (13, 10); give the net an "
            "argument num_outputs, the size of its last layer",
        ),
        (
            Net(lambda y: y[:, 0]),
            "net: Net returns (13,) float32, but the task expects a tensor (13, 10); give the net an "
            "argument num_outputs, the size of its last layer",
        ),
        (
            Net(lambda y: (y, y)),
            "net: Net returns a tuple, but the task expects a tensor (13, 10); wrap it in one that "
            "returns a tensor",
        ),
        (
            Net(lambda y: {"out": y}),
            "net: Net returns a dict, but the task expects a tensor (13, 10); wrap it in one that "
            "returns a tensor",
        ),
        (
            Net(lambda y: Logits(y, y)),
            "net: Net returns a Logits, but the task expects a tensor (13, 10); wrap it in one that "
            "returns a tensor",
        ),
        (
            Net().requires_grad_(False),
            "net: Net has no parameter to train (requires_grad); choose another",
        ),
    ],
)
def test_rehearsal_net_mistakes(net: nn.Module, told: str, digits: DataModule) -> None:
    assert line(digits, Classification(net, digits.spec)) == told


def test_rehearsal_unreduced_loss(digits: DataModule) -> None:
    task = Own(lambda task, batch: {"loss": loss(task, batch).repeat(2)}, digits)
    assert line(digits, task) == (
        "task: the loss is not one number; return its mean (task.loss.reduction)"
    )


def test_where_in_a_net_of_src_nets(digits: DataModule) -> None:
    from src.nets.mlp import MLP

    task = Classification(MLP((3,), 10), digits.spec)
    assert re.fullmatch(
        r"net: MLP does not accept \(13, 1, 8, 8\) float32: .*mat1 and mat2 shapes cannot "
        r"be multiplied \(13x64 and 3x64\) \(src/nets/mlp.py:\d+\); "
        r"give the net an argument in_shape, the shape of the data",
        line(digits, task),
    )


def test_rehearsal_keeps_cause(digits: DataModule) -> None:
    with pytest.raises(InputError) as caught:
        preflight(digits, Classification(nn.Linear(3, 10), digits.spec))
    assert isinstance(caught.value.__cause__, RuntimeError)


# --------------------------------------------------------------------------------------------------
# What is no mistake, and what is one of the code


class Own(Classification):
    """A task as somebody writes it."""

    def __init__(self, step: Any, digits: DataModule, validation: Any = None) -> None:
        super().__init__(Net(), digits.spec)
        self.step, self.validation = step, validation

    def training_step(self, batch: Any) -> Any:  # type: ignore[override]  # Lightning takes it without a number, too
        return self.step(self, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.validation:
            self.validation(self, batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        assert len(batch[1])

    def on_train_epoch_end(self) -> None:
        """No meter was updated."""

    on_validation_epoch_end = on_test_epoch_end = on_train_epoch_end


def loss(task: Own, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(task(batch[0]), batch[1])


@pytest.mark.parametrize(
    "step",
    [
        lambda task, batch: (
            task.log("train/loss", 0.0) or task.log_dict({"a": 1}) or loss(task, batch)
        ),
        lambda task, batch: task.trainer.optimizers[0] and loss(task, batch),
        lambda task, batch: task.logger.experiment.add_image("x", batch[0][0]),
        lambda task, batch: task.loggers[0] and loss(task, batch),
        lambda task, batch: task.optimizers() and loss(task, batch),
        lambda task, batch: task.print("x"),
        lambda task, batch: loss(task, batch) * (1 + task.current_epoch + task.global_step),
        lambda task, batch: {"loss": loss(task, batch), "outputs": batch[0]},
        lambda task, batch: None,
        lambda task, batch: batch[0].cuda(),
        lambda task, batch: (
            torch.ones(16).view(len(batch[0]), 4) if len(batch[0]) < 16 else loss(task, batch)
        ),
    ],
)
def test_rehearsal_false_alarms(step: Any, digits: DataModule) -> None:
    preflight(digits, Own(step, digits))


def test_epoch_without_trainer(digits: DataModule) -> None:
    class Epoch(Own):
        def training_step(self, batch: Any) -> Any:
            type(self).seen = (
                self.current_epoch,
                self.global_step,
                self.global_rank,
                self.local_rank,
            )
            return loss(self, batch)

    preflight(digits, Epoch(None, digits))
    assert Epoch.seen == (0, 0, 0, 0)


def test_rehearsal_runs_hooks(digits: DataModule) -> None:
    class Prepared(Own):
        def on_fit_start(self) -> None:
            self.scale = 2.0

    preflight(digits, Prepared(lambda task, batch: loss(task, batch) * task.scale, digits))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (lambda task, batch: task.missing, AttributeError),
        (lambda task, batch: task.log("x", 1.0) or undefined, NameError),  # type: ignore[name-defined]  # noqa: F821
        (lambda task, batch: loss(task, batch) + {}["x"], KeyError),
        (lambda task, batch: [][0], IndexError),
        (lambda task, batch: batch[0] @ batch[1], RuntimeError),
    ],
)
@pytest.mark.parametrize("stage", ["train", "val"])
def test_bug_in_step_keeps_traceback(
    stage: str, step: Any, error: type[Exception], digits: DataModule
) -> None:
    task = Own(step, digits) if stage == "train" else Own(loss, digits, validation=step)
    with pytest.raises(error):
        preflight(digits, task)


class Unlearnable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise ValueError("planted")


def test_bug_in_gradient_keeps_traceback(digits: DataModule) -> None:
    with pytest.raises(ValueError, match="planted"):
        preflight(digits, Classification(Net(Unlearnable.apply), digits.spec))


def test_bug_in_net_keeps_traceback(digits: DataModule) -> None:
    with pytest.raises(AttributeError, match="missing"):
        preflight(digits, Classification(Net(lambda y: y.missing), digits.spec))


def test_other_tasks_may_want_other_outputs(digits: DataModule) -> None:
    class Autoencoder(LightningModule):
        def __init__(self, scaled: bool) -> None:
            super().__init__()
            self.scaled = scaled
            self.net = Net(lambda code: (code, code), width=64)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0] / 16 if self.scaled else batch[0].double()
            code, again = self.net(x)
            return (again - x.flatten(1)).square().mean() + code.mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    preflight(digits, Autoencoder(scaled=True))
    assert line(digits, Autoencoder(scaled=False)).endswith(
        "; cast the input, or set trainer.precision"
    )


def test_rehearsal_skips_uncopyable_module(digits: DataModule) -> None:
    task = Classification(Net(width=7), digits.spec)
    task.lock = threading.Lock()
    preflight(digits, task)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_rehearsal_copies_old_weight_norm(digits: DataModule) -> None:
    task = Classification(Net(), digits.spec)
    torch.nn.utils.weight_norm(next(m for m in task.modules() if isinstance(m, nn.Linear)))
    assert preflight(digits, task)


def test_stages_without_samples_are_left_out() -> None:
    data = build_data(checked("digits", "data.split=[0.8,0.2,0]"))
    preflight(data, Own(loss, data))


def test_validation_is_tried_as_it_is_made(digits: DataModule) -> None:
    seen: list[bool] = []
    preflight(
        digits,
        Own(loss, digits, lambda task, _: seen.append(task.training or torch.is_grad_enabled())),
    )
    assert seen == [False]


def test_manual_optimization_may_train_nothing(digits: DataModule) -> None:
    task = Own(lambda task, batch: None, digits).requires_grad_(False)
    task.automatic_optimization = False

    def no_optimizers() -> list[Any]:
        return []

    task.configure_optimizers = no_optimizers  # type: ignore[method-assign, assignment]
    preflight(digits, task)


# --------------------------------------------------------------------------------------------------
# What it finds


def test_rehearsal_finds_the_metrics_of_validation(digits: DataModule) -> None:
    found = preflight(digits, Classification(Net(), digits.spec))
    names = ("loss", "accuracy", "precision", "recall", "f1", "auroc")
    assert set(found or ()) == {f"val/{name}" for name in names}


def test_task_too_large_to_copy_is_not_rehearsed(
    digits: DataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "COPIED", 0)
    assert preflight(digits, Classification(Net(width=7), digits.spec)) is None
