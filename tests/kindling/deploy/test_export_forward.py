"""Exporting the plain `forward` of modules that know nothing of Kindling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.kindling.config.errors import InputError
from src.kindling.deploy.export import export

pytestmark = pytest.mark.usefixtures("in_this_process")


class Plain(LightningModule):
    """A linear layer and its own loader; `change` is applied to the output of `forward`."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda y: y, batch: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.change, self.batch = change, batch

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch], batch_size=None)


class NoForward(LightningModule):
    pass


class TwoInputs(LightningModule):
    example_input_array = torch.zeros(1, 3)

    def forward(self, image: Tensor, table: Tensor, scale: float = 1.0) -> Tensor:
        return image + scale * table


def run_of(task: LightningModule, path: Path) -> Any:
    return SimpleNamespace(
        task=task.eval(), path=path, data=lambda: None, build_task=lambda data: task
    )


@pytest.mark.parametrize("batch", [torch.rand(5, 3), (torch.rand(5, 3), torch.zeros(5))])
def test_first_tensor_of_a_batch_is_the_input(batch: Any, tmp_path: Path) -> None:
    found = export(run_of(Plain(batch=batch), tmp_path), "pt2")["pt2"]
    assert found["input"] == {"name": "input", "type": "float32", "shape": ["batch", 3]}
    assert found["output"] == {"name": "output", "type": "float32", "shape": ["batch", 2]}
    assert found["agreement"] is None
    assert list(found["milliseconds"]) == ["1", "2", "7", "64"]


def test_example_input_array_precedes_the_loader(tmp_path: Path) -> None:
    task = Plain()
    task.example_input_array = torch.rand(1, 3)
    assert export(run_of(task, tmp_path), "pt2")["pt2"]["input"]["shape"] == ["batch", 3]


def test_forward_of_one_batch_size_is_exported_with_it(tmp_path: Path) -> None:
    task = Plain(lambda y: y.reshape(5, 2) * 2, torch.rand(5, 3))
    found = export(run_of(task, tmp_path), "pt2")["pt2"]
    assert found["input"]["shape"] == [5, 3]
    assert list(found["milliseconds"]) == ["5"]


@pytest.mark.parametrize(
    ("task", "named"),
    [
        (NoForward(), "define forward"),
        (Plain(lambda y: y if y.sum() > 0 else -y, torch.rand(5, 3)), "try --format torchscript"),
        (TwoInputs(), "forward takes image, table; an export takes one tensor"),
        (Plain(batch={"x": torch.rand(5, 3)}), "set self.example_input_array"),
        (Plain(batch=torch.rand(5, 4)), "set self.example_input_array"),
        (Plain(lambda y: (y, y), torch.rand(5, 3)), "forward returns a tuple"),
        (Plain(lambda y: y + torch.rand_like(y), torch.rand(5, 3)), "remove random operations"),
    ],
)
def test_refused_with_one_line(task: LightningModule, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export(run_of(task, tmp_path), "pt2")
    (line,) = caught.value.lines
    assert named in line
    assert not (tmp_path / "export").exists()
