"""What a module changes in training, and its state dict lacks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.kindling.config import targets
from src.kindling.config.annotations import validate
from src.kindling.training.attributes import Attributes


class MemoryBank(nn.Module):
    """A library's: its attributes are not looked at, its buffers are."""

    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(2), persistent=False)
        self.register_buffer("saved", torch.zeros(2))
        self.count = 0


class Contrastive(LightningModule):
    args: Any

    def __init__(self) -> None:
        super().__init__()
        self.bank = MemoryBank()


def test_mapping_of_a_config_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: ("tests",))
    trainer: Any = SimpleNamespace(callbacks=[])
    module, resumed = Contrastive(), Contrastive()
    for one in (module, resumed):
        one.args = validate({"nested": {"warmup": 3}}, Any)
    attributes = Attributes.of_training(trainer, module)
    module.args.nested["warmup"] = 2
    Attributes.of_training(trainer, resumed).restore(attributes.changed())
    assert resumed.args.nested.warmup == 2


def test_buffer_outside_the_state_dict_is_restored() -> None:
    trainer: Any = SimpleNamespace(callbacks=[])
    module = Contrastive()
    attributes = Attributes.of_training(trainer, module)
    assert attributes.changed() == {}
    module.bank.values = torch.ones(3)
    module.bank.saved += 1
    module.bank.count = 1
    changed = attributes.changed()
    assert [(owner, list(found)) for owner, found in changed.items()] == [
        ("module.bank", ["values"])
    ]
    resumed = Contrastive()
    Attributes.of_training(trainer, resumed).restore(changed)
    assert dict(resumed.named_buffers())["bank.values"].tolist() == [1, 1, 1]


def test_a_checkpoint_calls_no_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: ("tests",))
    module, called = Contrastive(), list[Any]()
    module.args = 0
    monkeypatch.setitem(globals(), "call", called.append)
    planted = {"kind": "call", "items": [1], "size": None}
    Attributes({"module.": module}).restore({"module.": {"args": planted}})
    assert (module.args, called) == (0, [])
    assert "Contrastive.args changed in training and cannot be restored" in capsys.readouterr().out


def test_value_that_contains_itself_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: ("tests",))
    module = Contrastive()
    attributes = Attributes({"module.": module})
    module.args = []
    module.args.append(module.args)
    assert attributes.changed() == {
        "module.": {"args": {"kind": "cannot be saved", "class": "list"}}
    }
