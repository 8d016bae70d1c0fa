"""A table of every metric, loss, test and augmentation against an independent computation.

python -m pytest -m long -s tests/tasks/test_agreement.py
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from src.kindling.analysis import significance
from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.predictions import Predictions
from src.kindling.data import augment, augment_functional
from src.kindling.data.preprocess import EncodeTable
from src.kindling.data.spec import Column
from src.kindling.data.statistics import mean_and_std
from tests.tasks import test_split_loss as split
from tests.tasks.test_metrics import CLASSES, LABELS, Scaled
from tests.tasks.test_multilabel import VALUES

Row = tuple[str, Any, Any, str]  # name, ours, independent, by


def scored(task: Any, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """The test metrics of uneven batches."""
    task.eval()
    with torch.no_grad():
        for i in range(0, len(x), 32):
            task.test_step((x[i : i + 32], y[i : i + 32]), i)
    found = {
        key.partition("/")[2]: value.item() for key, value in task.test_meter.compute().items()
    }
    return found


def class_rows() -> Iterator[Row]:
    from src.tasks.classification import Classification

    task = Classification(Scaled(2, 0), CLASSES, metrics={"ece": MulticlassCalibrationError(3)})
    x, y = torch.randn(333, 4), torch.randint(0, 3, (333,))
    found, p = scored(task, x, y), task.predict_step((x, y), 0)["probability"].double().numpy()
    predicted = p.argmax(1)
    yield "accuracy", found["accuracy"], sk.accuracy_score(y, predicted), "scikit-learn"
    for name in ("precision", "recall", "f1"):
        other = getattr(sk, f"{name}_score")(y, predicted, average="macro")
        yield name, found[name], other, "scikit-learn"
    yield "AUROC", found["auroc"], sk.roc_auc_score(np.eye(3)[y], p), "scikit-learn"
    bins = np.minimum((p.max(1) * 15).astype(int), 14)
    gaps = [abs((p.max(1) - (predicted == y.numpy()))[bins == i].sum()) for i in range(15)]
    yield "ECE (task.metrics)", found["ece"], sum(gaps) / len(y), "numpy"


def label_rows() -> Iterator[Row]:
    from src.tasks.multilabel import Multilabel

    task = Multilabel(Scaled(2, 0), LABELS)
    x, y = torch.randn(333, 4), torch.randint(0, 2, (333, 3))
    columns, found = task.predict_step((x, y), 0), scored(task, x, y)
    p, predicted = columns["probability"].double().numpy(), columns["prediction"].numpy()
    yield "label accuracy", found["accuracy"], (predicted == y.numpy()).mean(), "numpy"
    yield "exact match", found["exact_match"], sk.accuracy_score(y, predicted), "scikit-learn"
    yield "label f1", found["f1"], sk.f1_score(y, predicted, average="macro"), "scikit-learn"
    yield "label AUROC", found["auroc"], sk.roc_auc_score(y, p), "scikit-learn"
    precision = sk.average_precision_score(y, p)
    yield "average precision", found["average_precision"], precision, "scikit-learn"


def value_rows() -> Iterator[Row]:
    from src.tasks.regression import Regression

    task = Regression(nn.Linear(4, 2), VALUES)
    mean = torch.tensor(VALUES.target_mean)
    x, y = torch.randn(333, 4), mean + torch.tensor(VALUES.target_std) * torch.randn(333, 2)
    found, predicted = scored(task, x, y), task(x).detach().double()
    constant = mean.double().expand_as(predicted)
    for name, of in {
        "mae": sk.mean_absolute_error,
        "rmse": sk.root_mean_squared_error,
        "r2": sk.r2_score,
    }.items():
        yield f"{name}, two values", found[name], of(y, predicted), "scikit-learn"
        if name != "r2":
            other = of(y, constant)
            yield f"{name} of the mean", found[f"mean_predictor_{name}"], other, "scikit-learn"


def mask_rows() -> Iterator[Row]:
    task, x, y = split.masks(nn.CrossEntropyLoss())
    found, counted = scored(task, x, y), (y != split.IGNORED).numpy()
    true, predicted = y.numpy()[counted], x.argmax(1).numpy()[counted]
    yield "IoU", found["iou"], sk.jaccard_score(true, predicted, average="macro"), "scikit-learn"
    yield "Dice", found["dice"], sk.f1_score(true, predicted, average="macro"), "scikit-learn"
    yield (
        "pixel accuracy",
        found["pixel_accuracy"],
        sk.accuracy_score(true, predicted),
        "scikit-learn",
    )


def loss_rows() -> Iterator[Row]:
    for name, (make, loss) in split.LOSSES.items():
        task, x, y = make(loss)
        target = y.float() if make is split.labels else y
        exact = target.double() if target.is_floating_point() else target
        whole = copy.deepcopy(loss).double()(x.double(), exact)
        yield f"loss {name}, batches of 32", scored(task, x, y)["loss"], whole.item(), "one batch"


def verdict_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Row]:
    right = {"A": np.arange(100) >= 4, "B": (np.arange(100) < 4) | (np.arange(100) >= 17)}
    columns = {"index": np.arange(100), "target": np.zeros(100)}

    def read(run: Any) -> Predictions:
        score = {"score": right[run.name].astype(float)}
        return Predictions(columns | score, None, "test", None, "accuracy")

    monkeypatch.setattr(significance, "_read_predictions", read)
    runs: list[Any] = [SimpleNamespace(name=name) for name in right]
    tail = sum(math.comb(17, i) for i in range(5)) / 2**17  # 4 of 17 samples that differ
    yield "McNemar p", significance.compare_paired(*runs).p, 2 * tail, "sum of binomials"
    values = np.random.default_rng(0).normal(0.8, 0.05, 15)
    error = stats.sem(values)
    interval = stats.t.interval(0.95, 14, values.mean(), error)
    yield "t-interval", mean_interval(values), interval, "SciPy"
    wider = stats.t.interval(
        0.95, 14, values.mean(), values.std(ddof=1) * math.sqrt(1 / 15 + 1 / 4)
    )
    yield "Nadeau-Bengio", mean_interval(values, overlap=0.25), wider, "SciPy, by the formula"


def scaling_rows() -> Iterator[Row]:
    x = 1.7e12 + 1e5 * np.random.default_rng(0).normal(size=(500, 1))
    mean, std = mean_and_std(torch.from_numpy(x), torch.arange(500))
    ours = EncodeTable([Column("t", mean=mean[0], std=std[0])])(torch.from_numpy(x))
    yield "standardized timestamps", ours, StandardScaler().fit_transform(x), "scikit-learn"
    quantiles = tuple(np.quantile(x, np.linspace(0, 1, 100)).tolist())
    ours = EncodeTable([Column("t", quantiles=quantiles)])(torch.from_numpy(x))
    uniform = QuantileTransformer(n_quantiles=100, subsample=None).fit_transform(x)
    yield "quantiles of timestamps", ours, (uniform - 0.5) * math.sqrt(12), "scikit-learn"


def image_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Row]:
    H, W, B = 32, 96, 64
    x, y = torch.rand(B, 3, H, W), torch.eye(4)[torch.arange(B) % 4]
    angle, size = torch.rand(B) * 360 - 180, 0.5 + torch.rand(B)
    shift = torch.randint(-9, 10, (B, 2))
    ours = augment_functional.resample(
        x, augment_functional.affine(angle.deg2rad(), shift.float(), size)
    )
    theirs = [
        tv.affine(
            x[i],
            angle[i].item(),
            shift[i].tolist(),
            size[i].item(),
            [0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        for i in range(B)
    ]
    yield "affine transforms, 32 x 96", ours, torch.stack(theirs), "torchvision"
    share, other = torch.rand(B), torch.randperm(B)
    monkeypatch.setattr(augment_functional, "draw_beta", lambda *_: share)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: other)
    for name, ours, values in zip("xy", augment.MixUp()(x, y), (x, y), strict=True):
        mixed = [
            share[i].item() * values[i].numpy() + (1 - share[i].item()) * values[other[i]].numpy()
            for i in range(B)
        ]
        yield f"MixUp {name}", ours, np.stack(mixed), "numpy"
    corners = torch.rand(2, B)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: corners)
    pixels, targets = x.clone(), y.clone()
    for i in range(B):  # as in the paper's code, with torchvision's rounding
        row, column = int(corners[0, i] * H), int(corners[1, i] * W)
        half = 0.5 * math.sqrt(1 - share[i].item())
        top, bottom = max(row - int(half * H), 0), min(row + int(half * H), H)
        left, right = max(column - int(half * W), 0), min(column + int(half * W), W)
        pixels[i, :, top:bottom, left:right] = x[other[i], :, top:bottom, left:right]
        cut = (bottom - top) * (right - left) / (H * W)
        targets[i] = (1 - cut) * y[i] + cut * y[other[i]]
    ours = augment.CutMix()(x, y)
    yield "CutMix x", ours[0], pixels, "a loop over samples"
    yield "CutMix y", ours[1], targets, "a loop over samples"


@pytest.mark.long
def test_table_of_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tables = [class_rows(), label_rows(), value_rows(), mask_rows(), loss_rows()]
    tables += [verdict_rows(monkeypatch), scaling_rows(), image_rows(monkeypatch)]
    print(f"\n{'quantity':32} {'ours':>10} {'independent':>12} {'difference':>11}  by")
    for table in tables:
        for name, ours, independent, by in table:
            one, other = np.asarray(ours, float), np.asarray(independent, float)
            difference = float(np.abs(one - other).max())
            first = f"{one.flat[0]:10.6f} {other.flat[0]:12.6f}"
            print(f"{name:32} {first} {difference:11.1e}  {by}")
            allowed = 1e-4 if "affine" in name else 2e-6
            assert difference < allowed * max(1.0, float(np.abs(other).max())), name
