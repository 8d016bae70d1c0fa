"""The evaluate command repeats the training's numbers exactly, and sees a changed weight."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.data.digits import Digits
from src.kindling.data.samples import Samples
from src.kindling.runs.run import Run
from src.kindling.training.fit import Result
from src.kindling.training.trained_run import load_run
from src.nets.cnn import CNN
from src.tasks.classification import Classification
from tests.conftest import as_own_task, call, copied, kept_runs, mistakes, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    with kept_runs(tmp_path_factory):
        yield train("digits")


@pytest.fixture
def run(trained: Result) -> Run:
    """A copy of the trained run, which a test may change."""
    return copied(trained.run)


def test_evaluate_repeats_metrics(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "latest") == run.metrics
    assert "identical  to the metrics at the end of training" in capsys.readouterr().out
    assert json.loads((run.path / "evaluation.json").read_text()) == run.metrics
    assert not (run.path / "evaluation").exists()  # the task writes nothing to TensorBoard
    (run.path / "evaluation.json").unlink()
    only = call("evaluate", "digits/latest", "--split", "test")
    assert only == {name: value for name, value in run.metrics.items() if name.startswith("test/")}


def test_lightning_loads_best_checkpoint(run: Run) -> None:
    trained = load_run(run.path)
    net = CNN(trained.spec.in_shape, trained.spec.num_outputs)
    path = run.checkpoints / "best.ckpt"
    task = Classification.load_from_checkpoint(path, net=net, spec=trained.spec)
    pairs = zip(task.parameters(), trained.task.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class Drawing(Classification):
    """Draws in `setup`, and in each evaluation step as a Bayesian net does."""

    def setup(self, stage: str) -> None:
        self.bias = torch.rand(10)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x) + self.bias
        return logits + torch.randn_like(logits) * (1 + np.random.rand() + random.random())


def test_evaluate_repeats_random_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    result = train("digits", as_own_task(Drawing, monkeypatch), "seed=5")
    torch.manual_seed(1)  # as each process begins with another
    assert call("evaluate", "latest") == result.metrics
    only = call("evaluate", "latest", "--split", "test")
    assert only == {
        name: value for name, value in result.metrics.items() if name.startswith("test/")
    }
    other = train("digits", f"task._target_={Drawing.__module__}.Drawing", "seed=6")
    assert other.metrics["val/loss"] != result.metrics["val/loss"]


class Drifting(Classification):
    """Each step changes a buffer that the state dict lacks."""

    shift: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.register_buffer("shift", torch.zeros(()), persistent=False)
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def training_step(self, batch: Any, number: int) -> Tensor:
        self.shift += 1
        return super().training_step(batch, number)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift * torch.arange(10)


def test_best_checkpoint_holds_changed_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    result = train("digits", as_own_task(Drifting, monkeypatch))
    assert result.metrics["val/loss"] == result.score  # of the first epoch
    assert call("evaluate", "latest") == result.metrics
    run = load_run("latest")
    assert run.task.get_buffer("shift") == 3
    assert run.checkpoint["kindling"]["buffers"].keys() == {"shift"}


def test_evaluate_repeats_random_data(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load

    def some(self: Digits) -> Samples:
        samples = load(self)
        taken = torch.utils.data.random_split(range(len(samples.y)), [0.5, 0.5])[0].indices  # type: ignore[arg-type]
        return dataclasses.replace(samples, x=samples.x[taken], y=samples.y[taken])  # type: ignore[index]

    monkeypatch.setattr(Digits, "load", some)
    result = train("digits", "seed=5", "trainer.limit_test_batches=1.0")
    content = load_run("latest").data().content_hash()
    before = torch.get_rng_state()
    assert load_run("latest").data().content_hash() == content
    assert torch.equal(torch.get_rng_state(), before)
    assert call("evaluate", "latest") == result.metrics


def test_changed_weight_changes_metrics(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.checkpoints / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.head.bias"][3] += 0.5
    torch.save(content, path)
    metrics = call("evaluate", "latest")
    assert metrics["test/loss"] != run.metrics["test/loss"]  # type: ignore[index]
    output = capsys.readouterr().out
    assert (
        f"differs    test/loss: {metrics['test/loss']!r} now, {run.metrics['test/loss']!r}"
        in output
    )  # type: ignore[index]
    assert "identical" not in output


def test_evaluate_last_checkpoint(run: Run) -> None:
    call("evaluate", str(run.checkpoints / "last.ckpt"))
    assert load_run(run.checkpoints / "last.ckpt").checkpoint["epoch"] == 2


def test_another_split_is_warned_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path / "config.yaml"
    path.write_text(
        path.read_text().replace(
            "_target_: src.data.digits.Digits", "_target_: src.data.digits.Digits\n  split_seed: 5"
        )
    )
    call("evaluate", "latest")
    assert "WARNING    the split is another one than in training" in capsys.readouterr().out


def test_broken_files_are_named(run: Run) -> None:
    path = run.path / "config.yaml"
    text = path.read_text()
    path.write_text("")
    shown = str(run.checkpoints / "best.ckpt")
    (line,) = mistakes("evaluate", "latest")
    assert line.startswith(f"{path}: not a run's config: ")
    assert line.endswith(f"; the checkpoint holds it too: name {shown} instead")
    path.write_text(text.replace("src.nets.cnn.CNN", "src.nets.cnn.CNN\n  channels: [8]"))
    (line,) = mistakes("evaluate", "latest")
    assert line.startswith(f"{run.path}: the checkpoint does not fit the net of its config: ")
    path.write_text(text)
    (run.path / "metrics.json").write_text("{")
    (line,) = mistakes("evaluate", "latest")
    assert line.startswith(f"{run.path / 'metrics.json'}: not readable: ")
