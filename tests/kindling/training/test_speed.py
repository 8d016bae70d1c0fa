from __future__ import annotations

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from src.kindling.training.trainer import build_evaluator
from tests.conftest import checked


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_optimizer_step_without_gpu_does_not_look_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: looked.append(1) or 0)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning leaves it
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.ones(2)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    assert looked  # what is spared
    build_evaluator(checked("digits"), None, DummyLogger())
    looked.clear()
    optimizer.step()
    assert not looked
