"""Confidence intervals: against independent computations, and their coverage."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t
from sklearn import metrics as sk
from torchmetrics import Metric, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from src.kindling.analysis import Classes, Values
from src.kindling.analysis.intervals import mean_interval, metric_intervals
from src.kindling.analysis.predictions import Predictions
from src.kindling.nn import Meter, RegressionScores, multiclass_metrics

Array = np.ndarray
Intervals = dict[str, tuple[float, float]]


def classify(names: list[str], probability: Array, target: Array, **columns: Array) -> Intervals:
    """The intervals of some of a classification's metrics."""
    every = multiclass_metrics([str(i) for i in range(probability.shape[1])])
    outputs = Classes([str(i) for i in range(probability.shape[1])])
    columns |= {"probability": probability.astype(np.float32), "target": target}
    columns["score"] = (probability.argmax(axis=1) == target).astype(np.float32)
    return measure({name: every[name] for name in names if name in every}, outputs, columns)


def regress(prediction: Array, target: Array, **columns: Array) -> Intervals:
    """The intervals of a regression's metrics."""
    columns |= {"prediction": prediction[:, None], "target": target[:, None]}
    columns["score"] = np.abs(prediction - target)
    scores = RegressionScores(["value"], [0.0])
    return measure({"scores": scores}, Values(["value"], [0.0]), columns)


def measure(metrics: dict[str, Metric], outputs: Any, columns: dict[str, Array]) -> Intervals:
    task = SimpleNamespace(outputs=outputs, test_meter=Meter("test", metrics))
    run: Any = SimpleNamespace(build_task=lambda: task)
    predictions = Predictions(columns, None, "test", None, outputs.score_name)
    return metric_intervals(run, predictions)[0]


def draw_classes(random: np.random.Generator, n: int, auroc: float, share: float = 0.5) -> Any:
    """Probabilities `(n, 2)` and classes `(n,)` of two normal distributions."""
    target = (random.random(n) < share).astype(np.int64)
    logit = random.normal(size=n) + norm.ppf(auroc) * np.sqrt(2) * target
    positive = 1 / (1 + np.exp(norm.ppf(auroc) / np.sqrt(2) - logit))
    return np.stack([1 - positive, positive], axis=1), target


def jackknife(statistic: Callable[[Array], float], parts: list[Array]) -> tuple[float, float]:
    """A statistic of sample numbers, and its standard error from leaving out each part."""
    n = sum(map(len, parts))
    every = np.concatenate(parts)
    whole, total = statistic(every), 0.0
    for part in parts:
        total += ((1 - len(part) / n) * (whole - statistic(np.setdiff1d(every, part)))) ** 2
    return whole, float(np.sqrt(len(parts) / (len(parts) - 1) * total))


def wilson(share: float, error: float, groups: int) -> tuple[float, float]:
    """SciPy's interval of a share of so many samples that they have its standard error."""
    count = share * (1 - share) / error**2
    level = 2 * norm.cdf(t.ppf(0.975, groups - 1)) - 1
    z = norm.ppf(0.5 + level / 2)
    ends = np.roots([1 + z**2 / count, -2 * share - z**2 / count, share**2])
    return float(ends.min()), float(ends.max())


# Against independent computations


@pytest.mark.parametrize(("right", "n"), [(24, 30), (29, 30), (30, 30), (0, 30), (4_990, 5_000)])
def test_accuracy_interval_is_wilsons(right: int, n: int) -> None:
    target = np.arange(n) % 2
    found = np.where(np.arange(n) < right, target, 1 - target)
    low, high = classify(["accuracy"], np.eye(2)[found], target)["accuracy"]
    # The variance of the values is estimated, with n - 1 degrees of freedom.
    inflation = np.sqrt(n / (n - 1)) if 0 < right < n else 1
    level = 2 * norm.cdf(t.ppf(0.975, n - 1) * inflation) - 1
    exact = binomtest(right, n).proportion_ci(confidence_level=level, method="wilson")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-6)
    usual = binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((usual.low, usual.high), abs=0.4 / n)


def test_equal_groups_have_the_interval_of_so_many_samples() -> None:
    target = np.zeros(80, int)
    found = np.arange(80) % 4 == 0  # wrong, in each of 20 groups once
    probability = np.eye(2)[found.astype(int)]
    low, high = classify(["accuracy"], probability, target, group=np.arange(80) // 4)["accuracy"]
    level = 2 * norm.cdf(t.ppf(0.975, 19)) - 1
    exact = binomtest(15, 20).proportion_ci(confidence_level=level, method="wilson")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_errors_and_r2_stay_within_their_limits() -> None:
    random = np.random.default_rng(4)
    lows, highs = [], []
    for _ in range(20):
        target = random.normal(size=9)
        found = regress(target + random.standard_t(1, size=9), target)
        lows += [found["mae"][0], found["rmse"][0]]
        highs.append(found["r2"][1])
    assert (min(lows), max(highs)) == (0.0, 1.0)


def test_auroc_interval_has_delongs_error() -> None:
    probability, target = draw_classes(np.random.default_rng(0), 90, 0.85)
    positive, negative = probability[target == 1, 1], probability[target == 0, 1]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    p, q = wins.shape
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / p + wins.mean(axis=0).var(ddof=1) / q)
    expected = wilson(wins.mean(), error, 90)
    width = expected[1] - expected[0]
    assert classify(["auroc"], probability, target)["auroc"] == pytest.approx(
        expected, abs=0.02 * width
    )


def test_f1_interval_follows_the_jackknife() -> None:
    random = np.random.default_rng(0)
    target = random.choice(3, size=80, p=[0.6, 0.3, 0.1])
    found = np.where(random.random(80) < 0.8, target, random.integers(3, size=80))

    def f1(rows: Array) -> float:
        return float(sk.f1_score(target[rows], found[rows], average="macro"))

    value, error = jackknife(f1, list(np.arange(80)[:, None]))
    intervals = classify(["f1"], np.eye(3)[found], target)
    assert intervals["f1"] == pytest.approx(wilson(value, error, 80), abs=1e-5)
    # Groups are left out as a whole.
    group = random.integers(12, size=80)
    value, error = jackknife(f1, [np.flatnonzero(group == i) for i in range(12)])
    grouped = classify(["f1"], np.eye(3)[found], target, group=group)
    assert grouped["f1"] == pytest.approx(wilson(value, error, 12), abs=1e-5)


def test_intervals_of_repeated_samples_follow_their_groups() -> None:
    random = np.random.default_rng(0)
    probability, target = draw_classes(random, 60, 0.85)
    prediction, value = random.normal(size=(2, 60))
    group = np.tile(np.arange(60), 3)
    names = ["accuracy", "auroc", "f1", "precision", "recall"]
    once = classify(names, probability, target)
    thrice = classify(names, np.tile(probability, (3, 1)), np.tile(target, 3), group=group)
    assert thrice.keys() == once.keys() == {*names}
    for name in names:
        assert thrice[name] == pytest.approx(once[name], abs=1e-5)
    once = regress(prediction, value)
    thrice = regress(np.tile(prediction, 3), np.tile(value, 3), group=group)
    for name in ("mae", "rmse", "r2"):
        assert thrice[name] == pytest.approx(once[name], abs=1e-5)


def test_rmse_interval_is_halls() -> None:
    prediction, target = np.random.default_rng(0).normal(size=(2, 70))
    squared = (prediction - target) ** 2
    low, high = regress(prediction, target)["rmse"]
    left = np.sqrt((squared.sum() - squared) / 69)
    rmse = np.sqrt(squared.mean())
    parts = 69 * (rmse - left)
    error = np.sqrt(np.square(parts).sum() / 69 / 70)
    skewness = (parts**3).mean() / np.square(parts).mean() ** 1.5
    for end, sign in ((low, 1), (high, -1)):
        # Hall's transformation of the studentized error has the quantiles of t.
        s, n = (rmse - end) / error, 70
        transformed = (
            s
            + skewness * s**2 / (3 * np.sqrt(n))
            + skewness**2 * s**3 / (27 * n)
            + skewness / (6 * np.sqrt(n))
        )
        assert transformed == pytest.approx(sign * t.ppf(0.975, 69), abs=1e-4)


@pytest.mark.filterwarnings("ignore:The variance of predictions or target is close to zero")
def test_interval_of_metric_without_sums_or_lists() -> None:
    random = np.random.default_rng(0)
    prediction = random.normal(size=60)
    target = prediction + random.normal(size=60)
    columns = {"prediction": prediction, "target": target}
    metrics: dict[str, Metric] = {"pearson": PearsonCorrCoef()}
    low, high = measure(metrics, Values(["value"]), columns)["pearson"]
    value, error = jackknife(
        lambda rows: float(np.corrcoef(prediction[rows], target[rows])[0, 1]),
        list(np.arange(60)[:, None]),
    )
    assert low < value < high
    assert high - low == pytest.approx(2 * t.ppf(0.975, 59) * error, rel=0.1)


def test_own_metric_is_a_share_by_its_class() -> None:
    target = np.arange(40) % 3
    columns = {"probability": np.eye(3, dtype=np.float32)[target], "target": target}
    metrics: dict[str, Metric] = {"top2": MulticlassAccuracy(3, average="micro", top_k=2)}
    low, high = measure(metrics, Classes(["a", "b", "c"]), columns)["top2"]
    assert (low, high) == pytest.approx((40 / (40 + t.ppf(0.975, 39) ** 2), 1))


def test_class_of_a_single_sample_leaves_finite_intervals() -> None:
    random = np.random.default_rng(0)
    target = np.r_[np.arange(59) % 2, 2]
    probability = random.dirichlet([1, 1, 1], 60) / 2 + np.eye(3)[target] / 4
    names = ["accuracy", "auroc", "f1", "precision", "recall"]
    intervals = classify(names, probability, target)
    assert intervals.keys() == {*names}
    assert np.isfinite([*intervals.values()]).all()

    # Without the only sample of a class, the mean is over the other classes.
    def recall(rows: Array) -> float:
        found = probability[rows].argmax(axis=1)
        return float(np.mean([(found[target[rows] == i] == i).mean() for i in {*target[rows]}]))

    value, error = jackknife(recall, list(np.arange(60)[:, None]))
    assert intervals["recall"] == pytest.approx(wilson(value, error, 60), abs=1e-5)
    # AUROC of a single positive sample cannot be computed without it.
    assert classify(["auroc"], probability[:, :2], (target == 2).astype(np.int64)) == {}


# Coverage


Draw = Callable[[np.random.Generator, int], Intervals]


def accuracy_of(right: float) -> Draw:
    def draw(random: np.random.Generator, n: int) -> Intervals:
        # As that of a run's accuracy (test_accuracy_interval_is_wilsons), in less time.
        interval = mean_interval(random.random(n) < right, share=True)
        assert interval is not None
        return {"accuracy": interval}

    return draw


def auroc_of(auroc: float, share: float) -> Draw:
    return lambda random, n: classify(["auroc"], *draw_classes(random, n, auroc, share))


def f1_of(right: float, shares: list[float]) -> Draw:
    def draw(random: np.random.Generator, n: int) -> Intervals:
        target = random.choice(3, size=n, p=shares)
        found = np.where(random.random(n) < right, target, (target + random.integers(1, 3, n)) % 3)
        return classify(["f1"], np.eye(3)[found], target)

    return draw


def macro_f1(right: float, shares: list[float]) -> float:
    confusion = np.diag(shares) * (right - (1 - right) / 2)
    confusion += np.array(shares)[:, None] * (1 - right) / 2
    return float(np.mean(2 * confusion.diagonal() / (confusion.sum(axis=0) + shares)))


def errors_of(kind: str) -> Draw:
    def draw(random: np.random.Generator, n: int) -> Intervals:
        error = random.normal(size=n) if kind == "normal" else random.standard_t(3, size=n)
        prediction = 2 * random.normal(size=n)
        return regress(prediction, prediction + error)

    return draw


def coverage(draw: Draw, truth: dict[str, float], n: int, draws: int) -> dict[str, float]:
    """The share of draws whose interval of each metric contains its true value."""
    random, held = np.random.default_rng(0), dict.fromkeys(truth, 0)
    for _ in range(draws):
        intervals = draw(random, n)
        for name, value in truth.items():
            # Where an AUROC is undefined, there is no interval.
            low, high = intervals.get(name, (-np.inf, np.inf))
            held[name] += low <= value <= high
    return {name: count / draws for name, count in held.items()}


UNIFORM, RARE = [1 / 3] * 3, [0.8, 0.15, 0.05]
GRID: dict[str, tuple[Draw, dict[str, float]]] = {
    **{
        f"accuracy {right}": (accuracy_of(right), {"accuracy": right})
        for right in (0.8, 0.9, 0.95, 0.98, 0.99, 0.998)
    },
    "AUROC 0.76": (auroc_of(0.76, 0.5), {"auroc": 0.76}),
    "AUROC 0.96": (auroc_of(0.96, 0.5), {"auroc": 0.96}),
    "AUROC 0.96, 20 % positive": (auroc_of(0.96, 0.2), {"auroc": 0.96}),
    "F1 0.9, three equal classes": (f1_of(0.9, UNIFORM), {"f1": macro_f1(0.9, UNIFORM)}),
    "F1 0.8, classes of 80, 15, 5 %": (f1_of(0.9, RARE), {"f1": macro_f1(0.9, RARE)}),
    "normal errors": (
        errors_of("normal"),
        {"mae": np.sqrt(2 / np.pi), "rmse": 1.0, "r2": 1 - 1 / 5},
    ),
    "errors of t, 3 degrees of freedom": (
        errors_of("t"),
        {"mae": 2 * np.sqrt(3) / np.pi, "rmse": np.sqrt(3), "r2": 1 - 3 / 7},
    ),
}


def test_intervals_have_their_coverage() -> None:
    cells = [("accuracy 0.99", 0.9), ("AUROC 0.96", 0.9), ("normal errors", 0.88)]
    for name, least in [*cells, ("errors of t, 3 degrees of freedom", 0.8)]:
        draw, truth = GRID[name]
        found = coverage(draw, truth, 30, 60)
        assert min(found.values()) >= least, (name, found)


# Discrete values, few samples of a class, and squares without a variance cover less than the aim, 0.93.
LESS = {
    ("accuracy 0.998", "accuracy", 270): 0.88,
    ("F1 0.8, classes of 80, 15, 5 %", "f1", 30): 0.78,
    **{
        ("errors of t, 3 degrees of freedom", metric, n): 0.8
        for metric in ("rmse", "r2")
        for n in (30, 270, 5000)
    },
}


@pytest.mark.long
@pytest.mark.parametrize("name", GRID)
def test_coverage_of_the_grid(name: str) -> None:
    """Print the table of docs/explanation/confidence-intervals.md."""
    draw, truth = GRID[name]
    sizes = {30: 1000, 270: 1000, 5000: 300}
    if "accuracy" in truth:  # takes no time
        sizes = dict.fromkeys(sizes, 5000)
    found = {n: coverage(draw, truth, n, draws) for n, draws in sizes.items()}
    for metric in truth:
        title = f"{metric}, {name}" if len(truth) > 1 else name
        print(f"| {title} | " + " | ".join(f"{found[n][metric]:.3f}" for n in found) + " |")
    for n, draws in sizes.items():
        for metric in truth:
            least = LESS.get((name, metric, n), 0.93) - 2 * np.sqrt(0.05 * 0.95 / draws)
            assert found[n][metric] >= least, (metric, n)
