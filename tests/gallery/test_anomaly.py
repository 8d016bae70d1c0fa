"""Anomaly detection: scores and losses by hand, baselines against scikit-learn, no anomaly in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from src.gallery.anomaly import AnomalyDetection, DenoisingAutoencoder, DigitsWithAnomalies


@pytest.fixture(scope="module")
def data() -> DigitsWithAnomalies:
    data = DigitsWithAnomalies(anomaly=3, samples=400)
    data.setup("fit")
    return data


def build(data: DigitsWithAnomalies, net: nn.Module, **options: Any) -> AnomalyDetection:
    task = AnomalyDetection(net, data.baselines, **options)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_training_has_no_anomaly(data: DigitsWithAnomalies) -> None:
    train, val, test = (split.tensors[1].bincount(minlength=2).tolist() for split in data.splits)
    assert train[1] == 0
    assert sum(map(sum, (train, val, test))) == 400
    assert val[1] - test[1] in (0, 1)
    assert min(*val, *test) > 10


def test_score_is_mean_error_over_noisy_copies(data: DigitsWithAnomalies) -> None:
    task = build(data, Halve(), copies=3, score_noise=0.2)
    x = torch.rand(2, 1, 8, 8)
    noise = 0.2 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = torch.stack([((x + one) / 2 - x).square().mean(dim=(1, 2, 3)) for one in noise])
    assert torch.allclose(task(x), errors.mean(dim=0))


def test_loss_restores_clean_image(data: DigitsWithAnomalies) -> None:
    task = build(data, Halve(), noise=0.0)
    loss = task.training_step([torch.full((2, 1, 8, 8), 0.6), torch.zeros(2)], 0)
    assert loss.item() == pytest.approx(0.09)


def test_aurocs_of_score_and_baselines(data: DigitsWithAnomalies) -> None:
    torch.manual_seed(0)
    task = build(data, DenoisingAutoencoder(width=8))
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    for number, batch in enumerate(data.test_dataloader()):
        task.test_step(batch, number)
    (images, labels), train = data.splits[2].tensors, data.splits[0].tensors[0]
    expected = roc_auc_score(labels, task(images).detach())
    assert task.auroc.compute() == pytest.approx(expected, abs=1e-3)
    # By hand: the three smallest distances, and what 12 principal axes leave of an image.
    nearest = torch.cdist(images.flatten(1), train.flatten(1)).sort(dim=1).values[:, :3]
    center = train.flatten(1).mean(dim=0)
    axes = torch.linalg.svd(train.flatten(1) - center).Vh[:12]
    centered = images.flatten(1) - center
    left = (centered - centered @ axes.T @ axes).square().mean(dim=1)
    for name, scores in (("neighbor_auroc", nearest.mean(dim=1)), ("pca_auroc", left)):
        assert data.baselines[name] == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)


def test_columns_and_plots(data: DigitsWithAnomalies) -> None:
    from src.kindling.analysis import Predictions

    task, batch = build(data, DenoisingAutoencoder(width=8)), next(iter(data.val_dataloader()))
    with torch.inference_mode():
        columns = task.predict_step(batch, 0)
    count = len(batch[0])
    assert {name: tuple(column.shape) for name, column in columns.items()} == {
        "image": (count, 1, 8, 8),
        "restored": (count, 1, 8, 8),
        "anomaly_score": (count,),
        "anomaly": (count,),
    }
    arrays = {name: column.numpy() for name, column in columns.items()}
    predictions = Predictions({"index": np.arange(count), **arrays}, None, "test")
    assert set(task.plot(predictions)) == {"scores", "most_anomalous"}
