"""Windows leak no later hour, and the quantile loss is least at the quantiles."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss

from src.gallery.forecasting import (
    NORMAL_QUANTILE_LOSS,
    QUANTILES,
    Forecaster,
    Load,
    QuantileLoss,
    add_calendar,
    simulate,
)
from tests.conftest import train


def make_task() -> Forecaster:
    torch.manual_seed(0)
    return Forecaster(features=5, window=48, horizon=6, scale=4.0, references={}, hidden=8).eval()


def test_quantile_loss_matches_sklearn() -> None:
    torch.manual_seed(0)
    quantiles, target = torch.randn(7, 4, 3), torch.randn(7, 4)
    expected = [
        mean_pinball_loss(target.flatten(), quantiles[..., i].flatten(), alpha=level)
        for i, level in enumerate(QUANTILES)
    ]
    loss = QuantileLoss(QUANTILES)(quantiles, target)
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_noise_floor_is_the_loss_of_the_true_quantiles() -> None:
    levels = torch.tensor(QUANTILES)
    exact = norm.pdf(norm.ppf(levels)).mean()  # of a standard normal
    assert pytest.approx(exact, abs=2e-4) == NORMAL_QUANTILE_LOSS
    noise = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))
    true = torch.from_numpy(norm.ppf(levels)).float().expand(len(noise), 1, 3)
    assert QuantileLoss(QUANTILES)(true, noise).item() == pytest.approx(exact, rel=5e-3)
    assert QuantileLoss(QUANTILES)(true + 0.1, noise).item() > exact


def test_training_windows_end_before_later_targets_begin() -> None:
    data = Load(days=60, window=100, horizon=24)
    data.setup("fit")
    first = 1440 * 70 // 100
    assert max(start + 24 for start in data.train.starts) == first == data.val.starts[0]
    assert max(start + 24 for start in data.val.starts) <= data.test.starts[0]
    assert min(data.train.starts) == 100
    series, _ = simulate(60)
    x, y = data.val[1]
    assert torch.equal(x[:, 0], series[first + 24 - 100 : first + 24])
    assert torch.equal(y, series[first + 24 : first + 48])
    hours = [hour for start in data.test.starts for hour in range(start, start + 24)]
    assert len(hours) == len(set(hours))  # each once


def test_scale_is_the_seasonal_naive_error_of_training() -> None:
    data = Load(days=60)
    data.setup("fit")
    series, _ = simulate(60)
    errors = [abs(series[t] - series[t - 168]).item() for t in range(168, 1440 * 70 // 100)]
    assert data.scale == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    later = [abs(series[t] - series[t - 168]).item() for t in range(1440 * 85 // 100, 1440)]
    assert data.references["naive_mase"] == pytest.approx(
        sum(later) / len(later) / data.scale, rel=1e-4
    )


def test_quantiles_are_ordered_and_follow_the_level() -> None:
    task, x = make_task(), add_calendar(simulate(4)[0])[None, :48]  # (1, 48, 5)
    quantiles = task(x)
    assert quantiles.shape == (1, 6, 3)
    assert (quantiles.diff(dim=2) >= 0).all()
    higher = x.clone()
    higher[..., 0] += 500
    assert torch.allclose(task(higher), quantiles + 500, atol=0.1)


def test_metrics_by_hand() -> None:
    task, logged = make_task(), dict[str, float]()
    task.log_dict = lambda values, **_: logged.update(values)  # type: ignore[assignment,method-assign]
    x, y = torch.randn(3, 48, 5), torch.randn(3, 6)
    with torch.no_grad():
        task.validation_step((x, y), 0)
    low, median, high = task(x).unbind(dim=2)
    assert float(logged["val/mase"]) == pytest.approx(
        (y - median).abs().mean().item() / 4, rel=1e-5
    )
    inside = sum(
        int(a <= b <= c) for a, b, c in zip(low.flatten(), y.flatten(), high.flatten(), strict=True)
    )
    assert float(logged["val/coverage"]) == pytest.approx(inside / 18)


def test_forecasting_trains() -> None:
    metrics = train("forecasting", "data.days=60", "task.hidden=16").metrics
    assert 0 < metrics["test/least_possible_loss"] < metrics["test/loss"]
    assert 0.5 < metrics["test/naive_mase"] < 1.5
