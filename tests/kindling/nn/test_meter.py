"""A meter collects batches as tensors, holds little, and gives what its metrics give."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MeanAbsoluteError

from src.kindling.nn import meter as meter_module
from src.kindling.nn.meter import Meter


def test_meter_buffer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, targets = torch.randn(40, 1), torch.randn(40, 1)

    def value() -> dict[str, float]:
        meter = Meter("val", {"mae": MeanAbsoluteError()})
        for i in range(0, 40, 7):
            meter.update(outputs[i : i + 7].mean(), outputs[i : i + 7], targets[i : i + 7])
            assert sum(len(held[1]) for held in meter.buffer) < max(meter_module.BUFFER_SIZE, 8)
        found = {name: number.item() for name, number in meter.compute().items()}
        assert meter.buffer == []
        return found

    whole = value()
    assert whole["val/loss"] == pytest.approx(
        outputs.mean().item(), rel=1e-5
    )  # weighted by the batches' sizes
    monkeypatch.setattr(meter_module, "BUFFER_SIZE", 10)
    assert value() == pytest.approx(whole, rel=1e-6)


def test_meter_keeps_full_precision() -> None:
    outputs = torch.rand(200, 1000)
    meter = Meter("val", {"mae": MeanAbsoluteError()}).to(torch.bfloat16)
    for some in outputs:
        meter.update(some.mean(), some, torch.zeros(1000))
    mean = pytest.approx(outputs.mean().item(), rel=1e-5)
    values = meter.compute()
    assert (values["val/loss"].item(), values["val/mae"].item()) == (mean, mean)
