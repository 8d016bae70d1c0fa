"""--init: how much of a run's weights fits, and weights of the same net under other names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from src.kindling.analysis import Classes
from src.kindling.config.errors import InputError
from src.kindling.nn.backbones import match_by_order
from src.kindling.training.transfer import Match, take_weights


class Task(LightningModule):
    """A task from elsewhere, with a net whose parts have names of their own."""

    def __init__(self, *names: str, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        sizes = [(4, width), (width, width), (width, classes)]
        layers = {name: nn.Linear(*size) for name, size in zip(names, sizes, strict=False)}
        self.net = nn.ModuleDict(layers)


def init(task: LightningModule, classes: tuple[str, ...] = ()) -> Any:
    spec = SimpleNamespace(classes=classes) if classes else None
    content = {"state_dict": task.state_dict()}
    return SimpleNamespace(path=Path("/runs/1"), checkpoint=content, spec=spec)


def refusal(task: LightningModule, other: LightningModule, match: Match = "name") -> str:
    with pytest.raises(InputError) as caught:
        take_weights(task, init(other), match)
    (line,) = caught.value.lines
    return line


def test_init_below_half_of_the_parameters_needs_partial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = Task("a", "b", "c")
    task = Task("a", "b", "c")
    task.net["b"] = nn.Linear(8, 9)  # takes 40 + 27 of 148 parameters
    assert refusal(task, old) == (
        "--init /runs/1: 4 of 6 tensors fit this net (45 % of its parameters); "
        "pass --partial to take them"
    )
    assert not torch.equal(task.net["a"].weight, old.net["a"].weight)
    facts = take_weights(task, init(old), "partial")
    assert torch.equal(task.net["a"].weight, old.net["a"].weight)
    assert facts["match"] == "partial"
    assert facts["left"] == ["net.b.weight", "net.b.bias"]
    assert "init: loaded 4 tensors of the net from /runs/1 (45 % of its" in capsys.readouterr().out
    facts = take_weights(Task("a", "b", "other"), init(old))  # 112 of 139 parameters
    assert len(facts["taken"]) == 4


def test_head_of_other_classes_does_not_count() -> None:
    task = Task("a", "b", "head", classes=99)
    task.outputs = Classes([str(i) for i in range(99)])
    facts = take_weights(task, init(Task("a", "b", "head"), ("x", "y", "z")))
    assert facts["left"] == ["net.head.weight", "net.head.bias"]


def test_init_by_order_takes_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    old, task = Task("a", "b", "c"), Task("one", "two", "three")
    pairs = (
        "net.one.weight from net.a.weight, net.one.bias from net.a.bias, "
        "net.two.weight from net.b.weight and 3 more"
    )
    assert refusal(task, old) == (
        "--init /runs/1: 0 of 6 tensors fit this net (0 % of its parameters); "
        f"pass --by-order to take {pairs}"
    )
    assert take_weights(task, init(old), "order")["match"] == "order"
    for ours, theirs in zip(task.parameters(), old.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert f"init: by order: {pairs}" in capsys.readouterr().out.splitlines()
    nothing = "fit this net (0 % of its parameters); name a run of the same net"
    assert refusal(Task("x", "y", width=9), old) == f"--init /runs/1: 0 of 4 tensors {nothing}"
    assert refusal(Task("x", "y", width=9), old, "order").endswith(nothing)


def test_match_by_order_allows_only_a_head_more() -> None:
    names = ["a.weight", "a.bias", "b.weight", "b.bias"]
    ours = dict.fromkeys(names, torch.zeros(3))
    theirs = {f"model.{name}": value for name, value in ours.items()}
    head = dict.fromkeys(["fc.weight", "fc.bias"], torch.zeros(2))
    assert match_by_order(ours, theirs | head) == dict(zip(ours, theirs, strict=True))
    deeper = dict.fromkeys(["c.weight", "d.weight"], torch.zeros(3))
    swapped = dict.fromkeys(["m.a.bias", "m.a.weight", "m.b.bias", "m.b.weight"], torch.zeros(3))
    for other in (theirs | deeper, swapped, {**theirs, "model.b.bias": torch.zeros(4)}, {}):
        assert match_by_order(ours, other) == {}
