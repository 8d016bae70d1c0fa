"""Two configs, each trained with several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import binomtest, sem, t, ttest_ind, ttest_rel

from src.kindling.analysis.significance import compare_seeds, half_width
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
    interval = ttest_rel([*B.values()], [*A.values()]).confidence_interval()
    assert found.gain == pytest.approx(0.015)
    ends = found.gain - found.margin, found.gain + found.margin
    assert ends == pytest.approx((interval.low, interval.high))
    assert str(found) == (
        "no significant difference between A and B: B leads by 0.015 in accuracy (95 % confidence "
        f"interval {interval.low:.4g} to {interval.high:.4g}; over 4 paired seeds)"
    )


def test_interval_of_other_seeds_is_at_least_welchs() -> None:
    others = {seed + 10: value for seed, value in list(B.items())[:3]}
    found = compare_seeds(A, others, "loss", "min")
    welch = ttest_ind([*A.values()], [*others.values()], equal_var=False).confidence_interval()
    assert found.gain - found.margin < welch.low < found.gain < welch.high
    assert welch.high < found.gain + found.margin
    margins = [t.ppf(0.975, len(v) - 1) * sem([*v.values()]) for v in (A, others)]
    assert found.margin == pytest.approx(np.hypot(*margins))
    assert found.gain == pytest.approx(fmean(A.values()) - fmean(others.values()))
    assert found.basis == "over 4 and 3 seeds"


def test_seeds_that_differ_equally_have_a_sign_test() -> None:
    a = {seed: float(np.float32(1 - (seed + 2) / 270)) for seed in range(6)}
    b = {seed: float(np.float32(1 - (seed + 1) / 270)) for seed in range(6)}
    for count, p in ((2, 0.5), (5, 0.0625), (6, 0.03125)):
        some = [{seed: scores[seed] for seed in range(count)} for scores in (a, b)]
        found = compare_seeds(*some, "accuracy", "max")
        assert (found.p, found.significant) == (p, count == 6)
        assert f"over {count} paired seeds with the same difference; sign test" in str(found)
    found = compare_seeds({0: 0.9, 1: 0.9}, {2: 0.95, 3: 0.95}, "accuracy", "max")
    assert (found.p, found.significant) == (pytest.approx(1 / 3), False)
    assert not compare_seeds({0: 0.9, 1: 0.8}, {0: 0.9, 1: 0.8}, "accuracy", "max").significant


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


def compared_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a comparison has printed, without the columns that the terminal has no room for."""
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if not line.startswith("no room for ")]


def test_two_sets_of_seeds(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(logs, "before", 8, [0.90, 0.91, 0.92])
    study(logs, "wide", 16, [0.95, 0.965, 0.97])
    compared("--seeds", "digits/before", "digits/wide")
    lines = compared_lines(capsys)[-5:]
    interval = ttest_rel([0.95, 0.965, 0.97], [0.90, 0.91, 0.92]).confidence_interval()
    wilson = binomtest(3, 3).proportion_ci(method="wilson")
    assert lines == [
        "A = digits/before (3 seeds): test/loss 0.0900 ± 0.0100",
        "B = digits/wide (3 seeds): test/loss 0.0383 ± 0.0104",
        "B is significantly better by 0.05167 in test/loss (95 % confidence interval "
        f"{interval.low:.4g} to {interval.high:.4g}; over 3 paired seeds)",
        f"B leads with 3 of 3 seeds (95 % confidence interval {100 * wilson.low:.0f} to 100 %)",
        "not covered: other samples (digits/before/seed0: predictions/test.npz is missing; add a "
        "predict_step to the task, and train with plots (docs/how-to/add-a-task.md))",
    ]
    compared("--seeds", "digits/before", "digits/wide", "--sort", "test/accuracy")
    lines = compared_lines(capsys)[-5:]
    assert lines[0] == "A = digits/before (3 seeds): test/accuracy 0.9100 ± 0.0100"
    assert lines[4] == "not covered: other samples"


def test_test_samples_are_part_of_the_variance(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    right = random.random((6, 50)) < np.repeat([0.6, 0.9], 3)[:, None]
    study(logs, "before", 8, [0.8, 0.8, 0.8])
    study(logs, "wide", 16, [0.8, 0.8, 0.8])
    for i, name in enumerate(("before", "wide")):
        for seed in range(3):
            classes(logs / "digits" / name / f"seed{seed}", right[3 * i + seed])
    compared("--seeds", "digits/before", "digits/wide")
    lines = compared_lines(capsys)[-5:]
    gains = right[3:] * 1.0 - right[:3]
    gain, margins = gains.mean(), []
    for values in (gains.mean(axis=1), gains.mean(axis=0)):
        margins.append(t.ppf(0.975, len(values) - 1) * sem(values))
    margin = np.hypot(*margins)
    assert f"{gain - margin:.4g} to {gain + margin:.4g}; over 3 paired seeds)" in lines[2]
    assert lines[4] == "covered: other seeds and samples (50 test samples)"
    for path in (logs / "digits").glob("*/seed*"):
        columns = dict(np.load(path / "predictions" / "test.npz"))
        predictions(path, **columns, group=np.arange(50) // 5)
    compared("--seeds", "digits/before", "digits/wide")
    lines = compared_lines(capsys)[-5:]
    groups = gains.mean(axis=0).reshape(10, 5).mean(axis=1)
    margin = np.hypot(margins[0], t.ppf(0.975, 9) * sem(groups))
    assert f"{gain - margin:.4g} to {gain + margin:.4g}; over 3 paired seeds)" in lines[2]
    assert lines[4] == "covered: other seeds and samples (50 test samples in 10 groups)"


def test_metrics_of_other_splits_are_refused(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, digest in (("before", "a1"), ("by_group", "b2")):
        study(logs, name, 8, [0.9, 0.91])
        for path in (logs / "digits" / name).glob("seed*"):
            (path / "meta.json").write_text(json.dumps({"split_hash": digest}))
            facts = json.loads((path / "run.json").read_text())
            facts["config"]["data.group_column"] = digest
            (path / "run.json").write_text(json.dumps(facts))
    (line,) = mistakes("compare", "--seeds", "digits/before", "digits/by_group")
    assert line == (
        "--seeds digits/before digits/by_group: not of the same splits (data.group_column differ); "
        "train both on the same splits"
    )
    for path in (logs / "digits").glob("*/seed*"):
        (path / "meta.json").write_text('{"split_hash": "a1"}')
    compared("--seeds", "digits/before", "digits/by_group")
    lines = compared_lines(capsys)[-2:]
    assert lines[0].startswith("no significant difference between A and B: they differ by 0 in")
    assert lines[1].startswith("not covered")  # without leader, no line on who leads


def test_mistakes_in_sets_of_seeds(logs: Path) -> None:
    study(logs, "one", 8, [0.9])
    study(logs, "two", 8, [0.9, 0.8])
    study(logs, "wide", 16, [0.9, 0.8])
    make(logs, "digits/folds/0", {"val/loss": 0.5}, {"data.fold": [0, 2, 0]})
    make(logs, "digits/folds/1", {"val/loss": 0.5}, {"data.fold": [1, 2, 0]})
    make(logs, "other/1", {"val/loss": 0.5}, {"seed": 1, "data.path": "b.csv"})
    make(logs, "other/2", {"val/loss": 0.5}, {"seed": 2, "data.path": "b.csv"})
    make(logs, "cut/1", {}, status="failed")
    expected = "expected finished runs of one config, with two or more seeds, got"
    for word, found in (
        ("digits/one", "1 run of 1 config"),
        ("cut", "0 runs of 0 configs"),
        ("digits/[tw]*", "4 runs of 2 configs"),
        ("digits/folds", "2 runs of 1 config"),
    ):
        assert mistakes("compare", "--seeds", "digits/two", word) == [
            f"--seeds {word}: {expected} {found}; train with --seeds 0,1,2"
        ]
    assert mistakes("compare", "--seeds", "digits/two", "other") == [
        "--seeds digits/two other: not of the same data (data.path differ)"
    ]
    (line,) = mistakes("compare", "--seeds", "digits/two", "digits/wide", "--sort", "test/f1")
    assert line.startswith("--sort test/f1: no such metric")
    (line,) = mistakes("compare", "--seeds", "a", "b", "--paired", "a", "b")
    assert "not allowed with" in line


def false_positives(seeds: int, samples: int, spread: float, repeats: int) -> tuple[float, float]:
    """How often two equally good configs are called different, over seeds and by single runs.

    A sample is right by the sum of an effect of the sample, of the sample under a config, and of
    the training, whose accuracy varies by `spread`.
    """
    random, found, single = np.random.default_rng(0), 0, 0
    for _ in range(repeats):
        sample, means = random.normal(1, 1, samples), []
        for _ in "AB":
            config = random.normal(0, 0.5, samples)
            training = random.normal(0, spread, (seeds, 1))
            noise = random.normal(0, 0.5, (seeds, samples))
            means.append((sample + config + training + noise > 0).astype(float))
        a, b = (dict(enumerate(score.mean(axis=1))) for score in means)
        margin = half_width(means[1].mean(axis=0) - means[0].mean(axis=0))
        found += compare_seeds(a, b, "accuracy", "max", margin).significant
        single += ttest_rel(means[0][0], means[1][0]).pvalue < 0.05
    return found / repeats, single / repeats


def test_type_1_error_over_seeds() -> None:
    error, single = false_positives(3, 1000, spread=0.1, repeats=150)
    assert error <= 0.1
    assert single > 0.2


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("samples", [270, 2000])
def test_type_1_errors_over_seeds(seeds: int, samples: int) -> None:
    for spread in (0.0, 0.1, 0.3):
        error, single = false_positives(seeds, samples, spread, repeats=2000)
        print(f"{seeds} seeds, {samples} samples, spread {spread}: {error:.3f}; runs {single:.3f}")
        assert error <= 0.06
