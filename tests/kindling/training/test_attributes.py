"""What a module changes in training, and its state dict lacks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

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
    def __init__(self) -> None:
        super().__init__()
        self.bank = MemoryBank()


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
