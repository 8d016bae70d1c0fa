"""Parts of one's own installed package work by their dotted path, once pyproject.toml names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.kindling.config import targets
from src.kindling.config.errors import InputError
from tests.conftest import checked, train

PARTS = """
import torch, torchmetrics
from lightning.pytorch import Callback

class Net(torch.nn.Linear):
    def __init__(self, in_shape: tuple[int, ...], num_outputs: int, scale: float = 1.0) -> None:
        super().__init__(in_shape[0], num_outputs)

class Loss(torch.nn.CrossEntropyLoss):
    pass

class Optimizer(torch.optim.SGD):
    pass

class Schedule(torch.optim.lr_scheduler.StepLR):
    pass

class Metric(torchmetrics.MeanMetric):
    def update(self, outputs, targets):
        super().update(targets.float())

class Watch(Callback):
    seen = []

    def on_train_end(self, trainer, pl_module):
        self.seen.append(type(pl_module.net).__module__)
"""
WORDS = (
    "net={_target_: own_package.parts.Net}",
    "task.loss={_target_: own_package.parts.Loss}",
    "task.optimizer={_target_: own_package.parts.Optimizer, lr: 0.1}",
    "task.scheduler={_target_: own_package.parts.Schedule, step_size: 1}",
    "task.metrics.mine={_target_: own_package.parts.Metric}",
    "callbacks.watch={_target_: own_package.parts.Watch}",
)


def test_own_package_works_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        checked("breast_cancer", *WORDS)
    assert sorted(line.partition(":")[0] for line in caught.value.lines) == [
        "callbacks.watch._target_",
        "net._target_",
        "task.loss._target_",
        "task.metrics.mine._target_",
        "task.optimizer._target_",
        "task.scheduler._target_",
    ]
    assert "add its package or its full path to [tool.kindling] targets in pyproject.toml" in str(
        caught.value
    )
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.kindling]\ntargets = ["own_package"]\n')
    monkeypatch.setattr(targets, "PYPROJECT", project)
    targets.allowed_by_user.cache_clear()
    request.addfinalizer(targets.allowed_by_user.cache_clear)
    with pytest.raises(
        InputError, match="net.scael: Net has no argument 'scael'; did you mean 'scale'?"
    ):
        checked("breast_cancer", *WORDS, "net.scael=2")
    result = train("breast_cancer", *WORDS)
    from own_package.parts import Watch  # type: ignore[import-not-found]

    assert Watch.seen == ["own_package.parts"]
    assert 0 < result.metrics["test/mine"] < 1
