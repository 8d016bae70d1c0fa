"""When checkpoints are saved and trainings stopped, where several processes have to agree."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.kindling.data.spec import Spec
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.training.callbacks.checkpoint import Checkpoint
from tests.conftest import checked


def test_a_signal_that_comes_while_the_processes_agree_counts_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = Interrupts()
    checkpoint = Checkpoint(
        tmp_path, checked(), Spec((1, 8, 8), 10, "image"), "val/loss", "min", interrupts=interrupts
    )
    trainer: Any = SimpleNamespace(
        global_step=-1,
        world_size=2,
        state=SimpleNamespace(fn="fit"),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            "torch.distributed.all_reduce",
            lambda *_, **__: setattr(interrupts, "received", signal.SIGTERM),
        )
        checkpoint.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]  # the other one has not been told of it
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_, **__: None)
    with pytest.raises(Interrupted) as ended:
        checkpoint.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    assert ended.value.code == 128 + signal.SIGTERM
