"""The likelihood is scipy's, intervals cover what they say, and calibration sees no test sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from src.gallery.uncertainty import Diabetes, MeanVariance, conformal_quantile, nll
from tests.conftest import train


def make_task(**changes: float) -> MeanVariance:
    torch.manual_seed(0)
    return MeanVariance(150.0, 75.0, baselines={}, **changes)


def test_nll_is_that_of_a_gaussian() -> None:
    std, error = torch.tensor([0.5, 2.0, 30.0]), torch.tensor([1.0, -3.0, 10.0])
    assert nll(std, error).tolist() == pytest.approx(-norm.logpdf(error, scale=std), rel=1e-5)
    least = nll(torch.linspace(0.5, 6, 56), torch.tensor(3.0)).argmin()
    assert torch.linspace(0.5, 6, 56)[least].item() == pytest.approx(3.0)


def test_conformal_quantile_counts_the_new_sample() -> None:
    scores = torch.arange(1.0, 20.0).flip(0)  # 1 to 19
    assert conformal_quantile(scores, 0.9).item() == 18  # ceil(20 * 0.9)
    assert conformal_quantile(scores[-10:], 0.8).item() == 9  # ceil(11 * 0.8)
    assert conformal_quantile(scores[:3], 0.9).item() == 19  # of too few, the largest


def test_conformal_intervals_cover_for_any_distribution() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).exponential(size=(4000, 51)).astype("f4"))
    factors = torch.stack([conformal_quantile(row[:50], 0.9) for row in scores])
    assert (scores[:, 50] <= factors).float().mean().item() == pytest.approx(46 / 51, abs=0.015)


def test_forward_is_in_the_unit_of_the_target() -> None:
    output = make_task().eval()(torch.randn(400, 10))
    assert output.shape == (400, 2)
    assert output[:, 0].mean().item() == pytest.approx(150, abs=30)
    assert output[:, 1].min().item() > 75 * 0.05


def test_split_is_disjoint_and_scaled_by_training() -> None:
    data = Diabetes(seed=3)
    data.setup("fit")
    x, y = (
        torch.cat(parts)
        for parts in zip(*(d.tensors for d in (data.train, data.val, data.test)), strict=True)
    )
    assert (len(data.train), len(data.val), len(data.test)) == (266, 88, 88)
    assert len(torch.unique(x, dim=0)) == 442
    assert data.train.tensors[0].mean(dim=0).abs().max().item() < 1e-5
    assert data.mean == pytest.approx(y[:266].mean().item(), rel=1e-5)
    assert data.baselines["baseline_loss"] == pytest.approx(
        -norm.logpdf(y[354:], data.mean, data.std).mean(), rel=1e-5
    )


def test_validation_calibrates_the_factor() -> None:
    task = make_task().eval()
    task.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    task.log_dict = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    x, y = torch.randn(99, 10), 150 + 75 * torch.randn(99)
    task.validation_step([x[:60], y[:60]], 0)
    task.validation_step([x[60:], y[60:]], 1)
    task.on_validation_epoch_end()
    mean, std = task(x).unbind(dim=1)
    inside = ((y - mean).abs() <= task.factor * std * (1 + 1e-5)).sum().item()
    assert inside == 90
    columns = task.predict_step([x, y], 0)
    assert torch.allclose(columns["high"] - columns["low"], 2 * task.factor * std)


def test_uncertainty_trains() -> None:
    result = train(
        "uncertainty",
        "trainer.max_epochs=6",
        "trainer.limit_train_batches=null",
        "trainer.limit_val_batches=null",
        "trainer.limit_test_batches=null",
        "task.lr=1e-2",
    )
    metrics = result.metrics
    assert metrics["test/loss"] < metrics["test/baseline_loss"]
    assert metrics["test/width"] < metrics["test/baseline_width"]
    assert 0.8 < metrics["test/coverage"] < 0.99
    assert result.run.task.factor.item() == pytest.approx(metrics["val/factor"])
