"""Sets of seeds, and several runs at once: what differs, and what may be chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, t, ttest_ind, ttest_rel

from src.kindling.analysis.leaderboard import Row, average_repeats, rank, read
from src.kindling.analysis.seed_significance import compare_seed_rows, compare_seeds
from src.kindling.analysis.significance import Variance, t_test
from src.kindling.analysis.verdicts import holm, mark_boards
from tests.conftest import mistakes
from tests.kindling.analysis.test_leaderboard import classes, compared, make, predictions

A = {0: 0.91, 1: 0.93, 2: 0.90, 3: 0.94}
B = {0: 0.92, 1: 0.95, 2: 0.93, 3: 0.94}


def study(logs: Path, name: str, width: int, accuracies: list[float], first: int = 0) -> None:
    """Runs that differ in seed, with a study.json beside them."""
    for seed, accuracy in enumerate(accuracies, start=first):
        metrics = {"val/loss": 1 - accuracy, "test/accuracy": accuracy, "test/loss": 1 - accuracy}
        config = {"seed": seed, "net.width": width}
        make(logs, f"digits/{name}/seed{seed}", metrics, config, config_name="digits")
    (logs / "digits" / name / "study.json").write_text("{}")


def test_equal_seeds_are_paired() -> None:
    found = compare_seeds(A, B, "accuracy", "max")
    expected = ttest_rel([*B.values()], [*A.values()])
    interval = expected.confidence_interval()
    difference = found.difference
    assert difference.gain == pytest.approx(0.015)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.p == pytest.approx(expected.pvalue)
    wilson = binomtest(3, 4).proportion_ci(method="wilson")
    assert found.format(["A = one", "B = other"]) == [
        "A = one: accuracy 0.9200 ± 0.0183",
        "B = other: accuracy 0.9350 ± 0.0129",
        "no significant difference between A and B: B leads by 0.015 in accuracy (95 % confidence "
        f"interval {interval.low:.4g} to {interval.high:.4g}; t-test over 4 paired seeds: p = 0.1)",
        f"B is better with 3 of 4 seeds (95 % confidence interval {100 * wilson.low:.0f} to "
        f"{100 * wilson.high:.0f} %)",
    ]


def test_other_seeds_are_compared_by_welchs_test() -> None:
    others = {seed + 10: value for seed, value in list(B.items())[:3]}
    found = compare_seeds(A, others, "loss", "min").difference
    expected = ttest_ind([*A.values()], [*others.values()], equal_var=False)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.gain < 0
    assert found.test == "Welch t-test over 4 and 3 seeds"


def test_sum_of_variances_has_the_sum_of_squared_margins() -> None:
    low, high, p = t_test(1.0, [Variance(0.1, 4), Variance(0.05, 100)])
    margin = np.sqrt(0.1 * t.ppf(0.975, 4) ** 2 + 0.05 * t.ppf(0.975, 100) ** 2)
    assert (low, high) == pytest.approx((1 - margin, 1 + margin))
    scaled = 0.1 * t.ppf(1 - p / 2, 4) ** 2 + 0.05 * t.ppf(1 - p / 2, 100) ** 2
    assert scaled == pytest.approx(1.0)
    assert t_test(0.0, [Variance(0.1, 4)])[2] == 1.0
    assert t_test(0.0, [Variance(0.0, 4)]) == (0.0, 0.0, 1.0)


def test_studies_with_equal_seeds_are_rows_of_their_own(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(logs, "before", 8, [0.9, 0.91])
    study(logs, "again", 8, [0.92, 0.93])
    make(logs, "digits/alone", {"val/loss": 0.5}, {"seed": 0, "net.width": 8}, config_name="digits")
    (board,) = compared()
    names = [row.name for row in board.rows]
    assert names == ["digits/again (2 seeds)", "digits/before (2 seeds)", "digits/alone"]
    assert "not ranked" not in capsys.readouterr().out


def test_two_sets_of_seeds(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(logs, "before", 8, [0.90, 0.91, 0.92])
    study(logs, "wide", 16, [0.95, 0.965, 0.97])
    compared("--seeds", "digits/before", "digits/wide")
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0] == "A = digits/before (3 seeds): test/loss 0.0900 ± 0.0100"
    assert lines[2].startswith("B is significantly better by 0.05167 in test/loss (95 % conf")
    assert "t-test over 3 paired seeds: p = " in lines[2]
    assert lines[3].startswith(
        "B is better with 3 of 3 seeds (95 % confidence interval 44 to 100 %)"
    )
    assert lines[4] == (
        "not covered: other test samples (digits/before/seed0: predictions/test.npz is missing)"
    )
    compared("--seeds", "digits/before", "digits/wide", "--sort", "test/accuracy")
    assert " in test/accuracy (95 % conf" in capsys.readouterr().out


def test_test_samples_are_part_of_the_variance(logs: Path) -> None:
    random = np.random.default_rng(0)
    right = random.random((6, 50)) < 0.8
    study(logs, "before", 8, [0.8, 0.8, 0.8])
    study(logs, "wide", 16, [0.8, 0.8, 0.8])
    for i, name in enumerate(("before", "wide")):
        for seed in range(3):
            classes(logs / "digits" / name / f"seed{seed}", right[3 * i + seed])
    rows = [
        average_repeats([read(path) for path in sorted((logs / "digits" / name).glob("seed*"))])[0]
        for name in ("before", "wide")
    ]
    found = compare_seed_rows(*rows)
    seeds = right[3:].mean(axis=1) - right[:3].mean(axis=1)
    samples = right[3:].mean(axis=0) - right[:3].mean(axis=0)
    margins = [
        np.std(v, ddof=1) / len(v) ** 0.5 * t.ppf(0.975, len(v) - 1) for v in (seeds, samples)
    ]
    assert found.difference.gain == pytest.approx(seeds.mean())
    assert found.difference.high - found.difference.gain == pytest.approx(np.hypot(*margins))
    assert found.difference.test == "t-test over 3 paired seeds and 50 test samples"
    assert found.missing == ""
    group = {"group": np.arange(50) // 5}
    for row in rows:
        for path in row.paths:
            file = path / "predictions" / "test.npz"
            predictions(path, **dict(np.load(file)), **group)
    assert compare_seed_rows(*rows).difference.test.endswith("3 paired seeds and 10 groups")


def test_mistakes_in_sets_of_seeds(logs: Path) -> None:
    study(logs, "one", 8, [0.9])
    study(logs, "two", 8, [0.9, 0.8])
    study(logs, "wide", 16, [0.9, 0.8])
    make(logs, "digits/folds/0", {"val/loss": 0.5}, {"data.fold": [0, 2, 0]})
    make(logs, "digits/folds/1", {"val/loss": 0.5}, {"data.fold": [1, 2, 0]})
    make(logs, "other/1", {"val/loss": 0.5}, {"seed": 1, "data.path": "b.csv"})
    make(logs, "other/2", {"val/loss": 0.5}, {"seed": 2, "data.path": "b.csv"})
    make(logs, "cut/1", {}, status="failed")
    for words, line in (
        (
            ("digits/two", "digits/one"),
            "--seeds digits/one: one seed, and the variance between seeds needs two; train with "
            "--seeds 0,1,2",
        ),
        (("cut", "digits/one"), "--seeds cut: no finished runs"),
        (
            ("digits/[tw]*", "digits/two"),
            "--seeds digits/[tw]*: not of one config (net.width differ); name a study, or runs "
            "that differ in seed",
        ),
        (
            ("digits/folds", "digits/two"),
            "--seeds digits/folds: holds folds; name runs that differ in seed only",
        ),
        (
            ("digits/two", "other"),
            "digits/two (2 seeds) and other/1 (2 seeds): not of the same data (data.path differ)",
        ),
    ):
        assert mistakes("compare", "--seeds", *words) == [line]
    (line,) = mistakes("compare", "--seeds", "digits/two", "digits/wide", "--sort", "test/f1")
    assert line.startswith("--sort test/f1: no such metric")
    (line,) = mistakes("compare", "--seeds", "a", "b", "--paired", "a", "b")
    assert "not allowed with" in line


def test_holm_of_known_values() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    random = np.random.default_rng(0).random(50) ** 3
    assert (np.array(holm(list(random), 50)) >= false_discovery_control(random) - 1e-12).all()
    assert holm([], 0) == []


def several(logs: Path, lost: list[int]) -> list[Row]:
    """Runs of 200 test samples; `lost` of them are wrong, others than those of the first run."""
    rows = []
    for i, count in enumerate(lost):
        wrong = np.arange(200) + 10 * i
        right = ~((wrong % 200) < count)
        path = make(logs, f"digits/{i}", {"val/loss": i / 10}, {"net.width": i})
        rows.append(classes(path, right))
    return rows


def test_rows_are_marked_against_the_best(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several(logs, [0, 3, 6, 40])  # McNemar: 0.25, 2 / 2^6 = 0.031, 2e-12
    make(logs, "digits/untested", {"val/loss": 0.9}, {"net.width": 9})
    (board,) = compared()
    verdicts = [(row.name, row.verdict) for row in board.rows]
    assert verdicts == [
        ("digits/0", "best"),
        ("digits/1", "unclear"),
        ("digits/2", "unclear"),  # 0.031 alone, 0.063 among three
        ("digits/3", "worse"),
        ("digits/untested", "-"),
    ]
    printed = capsys.readouterr().out.splitlines()
    assert "vs best" in printed[1]
    assert printed[-1] == (
        "vs best (accuracy; p < 0.05, Holm, 3 tests): significantly worse: digits/3; "
        "unclear: digits/1, digits/2"
    )


def test_best_row_by_test_metric_is_one_of_all_pairs(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, count in zip(several(logs, [0, 3, 7, 40]), (0, 3, 7, 40), strict=True):
        facts = json.loads((row.paths[0] / "run.json").read_text())
        facts["metrics"]["test/accuracy"] = 1 - count / 200
        (row.paths[0] / "run.json").write_text(json.dumps(facts))
    (board,) = compared()
    assert [row.verdict for row in board.rows] == ["best", "unclear", "worse", "worse"]
    (board,) = compared("--sort", "test/accuracy")  # 2 / 2^7 = 0.0156, and 4 runs have 6 pairs
    assert [row.verdict for row in board.rows] == ["best", "unclear", "unclear", "worse"]
    assert "\nvs best (accuracy; p < 0.05, Holm, 6 tests): " in capsys.readouterr().out


def test_row_of_seeds_is_marked(logs: Path) -> None:
    study(logs, "before", 8, [0.90, 0.91, 0.92])
    study(logs, "wide", 16, [0.95, 0.965, 0.97])
    (board,) = compared()
    assert [row.verdict for row in board.rows] == ["best", "worse"]


@pytest.mark.long
@pytest.mark.parametrize("metric", ["val/loss", "test/accuracy"])
def test_family_wise_error_of_equal_runs(logs: Path, metric: str) -> None:
    """Of 8 equally good runs, any is marked in 5 % of cases at most."""
    random, found, repeats = np.random.default_rng(0), 0, 500
    for number in range(repeats):
        rows = []
        for i in range(8):
            right = random.random(270) < 0.8
            numbers = {"val/loss": 0.5, "test/accuracy": right.mean()}
            path = make(logs, f"{number}/{i}", numbers, {"net.width": i})
            rows.append(classes(path, right))
        (board,), _ = mark_boards(rank(rows, metric))
        found += any(row.verdict in ("better", "worse") for row in board.rows)
    print(f"ranked by {metric}: {found / repeats:.3f}")
    assert found / repeats <= 0.06
