"""When checkpoints are saved and trainings stopped, where several processes have to agree."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from src.kindling.data.spec import Spec
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.loaders import Loaders
from tests.conftest import checked


def test_signal_during_agreement_counts_next_time(tmp_path: Path) -> None:
    interrupts = Interrupts()
    checkpoint = Checkpoint(
        tmp_path,
        checked(),
        Spec((1, 8, 8), 10, "image"),
        "val/loss",
        "min",
        Loaders(0),
        interrupts=interrupts,
    )

    def reduce(number: Tensor, reduce_op: str) -> Tensor:
        interrupts.received = signal.SIGTERM  # while the ranks agree; the other has not received it
        return number

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    state = SimpleNamespace(fn="fit")
    trainer: Any = SimpleNamespace(global_step=-1, world_size=2, state=state, strategy=strategy)
    checkpoint.on_train_epoch_start(trainer)
    with pytest.raises(Interrupted) as ended:
        checkpoint.on_train_epoch_start(trainer)
    assert ended.value.code == 128 + signal.SIGTERM
