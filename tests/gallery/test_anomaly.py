"""Anomaly detection: scores and losses by hand, baselines against scikit-learn, no anomaly in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from src.gallery.anomaly import AnomalyDetection, DenoisingAutoencoder, DigitsWithAnomalies


@pytest.fixture(scope="module")
def data() -> DigitsWithAnomalies:
    data = DigitsWithAnomalies(anomaly=3, samples=400)
    data.setup("fit")
    return data


def build(data: DigitsWithAnomalies, net: nn.Module, **options: Any) -> AnomalyDetection:
    task = AnomalyDetection(net, data.mean, data.components, **options)
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
    task = build(data, Halve(), copies=3, noise=0.2)
    x = torch.rand(2, 1, 8, 8)
    noise = 0.2 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = torch.stack([((x + one) / 2 - x).square().mean(dim=(1, 2, 3)) for one in noise])
    assert torch.allclose(task(x), errors.mean(dim=0))


def test_loss_restores_clean_image(data: DigitsWithAnomalies) -> None:
    task = build(data, Halve(), noise=0.0)
    loss = task.training_step([torch.full((2, 1, 8, 8), 0.6), torch.zeros(2)], 0)
    assert loss.item() == pytest.approx(0.09)


def test_aurocs_equal_those_of_scikit_learn(data: DigitsWithAnomalies) -> None:
    torch.manual_seed(0)
    task = build(data, DenoisingAutoencoder(width=8))
    for number, batch in enumerate(data.test_dataloader()):
        task.test_step(batch, number)
    (images, labels), train = data.splits[2].tensors, data.splits[0].tensors[0]
    x, pca = images.flatten(1).numpy(), PCA(12).fit(train.flatten(1).numpy())
    pca_errors = np.square(x - pca.inverse_transform(pca.transform(x))).mean(axis=1)
    distances = np.square(x - train.flatten(1).numpy().mean(axis=0)).mean(axis=1)
    scores = {"": task(images).detach(), "pca_": pca_errors, "mean_": distances}
    for name, values in scores.items():
        expected = roc_auc_score(labels, values)
        assert getattr(task, f"{name}auroc").compute() == pytest.approx(expected, abs=1e-3)


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
