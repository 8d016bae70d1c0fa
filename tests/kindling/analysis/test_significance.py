"""Statistics of two runs, against cases whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from src.kindling.analysis.leaderboard import Row, rank
from src.kindling.analysis.predictions import Predictions, predict
from src.kindling.analysis.significance import compare_paired, compare_with_best, holm
from src.kindling.config.errors import InputError
from tests.conftest import mistakes, train
from tests.kindling.analysis.test_leaderboard import classes, compared, make, predictions


def test_identical_predictions_do_not_differ(logs: Path) -> None:
    right = np.arange(200) % 10 > 0
    found = compare_paired(*(classes(make(logs, f"digits/{i}", {}), right) for i in "AB"))
    assert (found.gain, found.margin, found.p, found.samples) == (0, 0, 1, 200)
    assert not found.significant
    assert str(found) == (
        "no significant difference between A and B: they differ by 0.0 points of "
        "accuracy (95 % confidence interval 0.0 to 0.0; "
        "McNemar: p = 1)"
    )


def test_mcnemar_of_clear_difference(logs: Path) -> None:
    worse = classes(make(logs, "digits/A", {}), np.arange(200) >= 40)
    better = classes(make(logs, "digits/B", {}), np.ones(200, bool))
    found = compare_paired(worse, better)
    assert found.gain == 20
    assert found.p == pytest.approx(2 * 0.5**40)
    # The normal approximation of a share of 0.2 of 200: 20 ± 1.96 * 2.83 points.
    assert found.margin == pytest.approx(5.54, abs=0.1)
    assert found == compare_paired(worse, better)
    assert str(found) == (
        "B is significantly better by 20.0 points of accuracy "
        f"(95 % confidence interval {20 - found.margin:.1f} to {20 + found.margin:.1f}; "
        "McNemar: p = 1.8e-12)"
    )
    back = compare_paired(better, worse)
    assert str(back) == str(found).replace("B is", "A is")


def test_mcnemars_test_is_exact(logs: Path) -> None:
    sample = np.arange(100)
    found = compare_paired(
        classes(make(logs, "digits/A", {}), sample >= 9),
        classes(make(logs, "digits/B", {}), sample < 99),
    )
    assert found.gain == pytest.approx(8)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)  # 1 of 10 samples that differ
    few = compare_paired(
        classes(make(logs, "digits/C", {}), sample >= 5),
        classes(make(logs, "digits/D", {}), sample >= 0),
    )
    assert few.gain > few.margin  # the interval alone would call it real
    assert (few.p, few.significant) == (2 / 2**5, False)
    assert str(few).startswith(
        "no significant difference between A and B: B leads by 5.0 points of "
        "accuracy (95 % confidence interval "
    )


def test_values_differ_significantly_by_their_errors(logs: Path) -> None:
    n = 400
    noise = np.random.default_rng(3).normal(size=(n, 2))
    target = np.arange(2.0 * n).reshape(n, 2)
    one = predictions(
        make(logs, "digits/A", {}),
        index=np.arange(n),
        target=target,
        prediction=target + 1.5 + 0 * noise,
    )
    turned = np.arange(n)[::-1]  # in another order
    other = predictions(
        make(logs, "digits/B", {}),
        index=turned,
        target=target[turned],
        prediction=(target + 1 + 0.1 * noise)[turned],
    )
    found = compare_paired(one, other)
    gains = 0.5 - 0.1 * noise.mean(axis=1)
    assert found.gain == pytest.approx(gains.mean())
    assert found.margin == pytest.approx(1.96 * gains.std() / 20, abs=0.001)
    assert found.p == pytest.approx(ttest_1samp(gains, 0).pvalue)
    assert str(found) == (
        f"B is significantly better by {found.gain:.4g} in mean absolute error "
        f"(95 % confidence interval {found.gain - found.margin:.4g} to "
        f"{found.gain + found.margin:.4g}; t-test: p = 0)"
    )


def test_values_that_only_vary_do_not_differ_significantly(logs: Path) -> None:
    noise = np.random.default_rng(3).normal(size=(2, 300))
    rows = [
        predictions(
            make(logs, f"digits/{i}", {}),
            index=np.arange(300),
            target=np.zeros(300),
            prediction=values,
        )
        for i, values in enumerate(noise)
    ]
    found = compare_paired(*rows)
    assert abs(found.gain) < found.margin
    assert not found.significant
    empty = [
        predictions(row.paths[0], index=np.zeros(0), target=np.zeros(0), prediction=np.zeros(0))
        for row in rows
    ]
    with pytest.raises(
        InputError, match=r"not tested on the same samples \(0 and 0, 0 in common\)"
    ):
        compare_paired(*empty)


def false_positives(folder: Path, groups: int, size: int, repeats: int) -> float:
    """How often `compare_paired` calls two equally good models different.

    Accuracy 0.8. Within a group, each model's accuracy is drawn from Beta(0.8, 0.2): the intraclass
    correlation is 1 / (0.8 + 0.2 + 1) = 0.5. Groups of one are independent samples.
    """
    random, found = np.random.default_rng(0), 0
    group = np.repeat(np.arange(groups), size)
    sample = {"index": np.arange(len(group)), "target": np.ones(len(group), int)}
    for name in "AB":
        (folder / name).mkdir(parents=True, exist_ok=True)
    for _ in range(repeats):
        rows = []
        for name in "AB":
            accuracy = np.repeat(random.beta(0.8, 0.2, groups), size)
            score = (random.random(len(group)) < accuracy).astype(float)
            columns = sample | {"score": score} | ({"group": group} if size > 1 else {})
            Predictions(columns, None, "test", scored="accuracy").save(
                folder / name / "predictions" / "test.npz"
            )
            rows.append(Row([folder / name], "finished"))
        found += compare_paired(*rows).significant
    return found / repeats


def test_type_1_error_of_grouped_samples(tmp_path: Path) -> None:
    assert false_positives(tmp_path, 20, 10, repeats=200) <= 0.1  # over samples: 0.43


@pytest.mark.long
@pytest.mark.parametrize(("groups", "size"), [(20, 10), (8, 10), (30, 1), (270, 1)])
def test_type_1_errors(tmp_path: Path, groups: int, size: int) -> None:
    error = false_positives(tmp_path, groups, size, repeats=4000)
    print(f"{groups} groups of {size}: type-I error {error:.4f}")
    assert error <= 0.06


def test_t_test_over_equal_groups_is_that_of_group_means(tmp_path: Path) -> None:
    gains = np.random.default_rng(1).integers(-1, 2, (12, 5))
    group = np.repeat(np.arange(12) + 7, 5)
    rows = []
    for name, score in (("A", gains < 0), ("B", gains > 0)):
        columns = {"index": np.arange(60), "target": np.ones(60), "score": score.ravel() * 1.0}
        path = tmp_path / name / "predictions" / "test.npz"
        Predictions(columns | {"group": group}, None, "test", scored="accuracy").save(path)
        rows.append(Row([tmp_path / name], "finished"))
    found, expected = compare_paired(*rows), ttest_1samp(100 * gains.mean(axis=1), 0)
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    ends = found.gain - found.margin, found.gain + found.margin
    assert ends == pytest.approx((interval.low, interval.high))
    assert str(found).endswith(f"; t-test over 12 groups: p = {expected.pvalue:.2g})")


@pytest.mark.parametrize(("groups", "p"), [(2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_equal_gains_of_groups_have_a_sign_test(tmp_path: Path, groups: int, p: float) -> None:
    rows = []
    for name, score in (("A", [0.1, 0.7, 0.3]), ("B", [0.4, 1.0, 0.6])):
        count = 3 * groups
        columns = {"index": np.arange(count), "target": np.ones(count)}
        columns |= {"score": np.tile(np.float32(score), groups), "group": np.arange(count) // 3}
        path = tmp_path / name / "predictions" / "test.npz"
        Predictions(columns, None, "test", scored="mae").save(path)
        rows.append(Row([tmp_path / name], "finished"))
    found = compare_paired(*rows)
    assert (found.p, found.significant) == (p, p < 0.05)
    assert str(found).endswith(f"; sign test over {groups} groups: p = {p:.2g})")


def test_runs_on_a_table_with_groups_are_compared_over_groups(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{i // 4},{i % 7},{i % 2}" for i in range(160)]
    (tmp_path / "visits.csv").write_text("\n".join(["patient,size,sick", *rows]))
    words = [f"data.path={tmp_path / 'visits.csv'}", "data.target=sick", "data.group=patient"]
    runs = []
    for seed in (0, 1):
        run = train("table", *words, f"seed={seed}", "trainer.limit_test_batches=null").run
        predictions = predict(run.task, run.data(), "test")
        predictions.save(run.path / "predictions" / "test.npz")
        saved = Predictions.load(run.path / "predictions" / "test.npz")
        assert saved["group"].tolist() == (saved["index"] // 4).tolist()
        assert saved["group"].dtype.kind == "i"
        runs.append(str(run.path))
    groups = len(set(saved["group"].tolist()))
    compared(*runs)
    assert f"t-test over {groups} groups: p = " in capsys.readouterr().out


def test_samples_of_one_group_cannot_be_tested(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "AB":
        columns = {"index": np.arange(9), "target": np.ones(9), "prediction": np.ones(9)}
        predictions(make(logs, f"digits/{name}", {}), **columns, group=np.zeros(9, int))
    compared("--paired", "digits/A", "digits/B")
    assert capsys.readouterr().out.endswith(
        "the difference cannot be tested: fewer than two independent test samples, groups or "
        "seeds, or one without a score; there is no interval\n"
    )


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


def test_several_runs_are_compared_with_the_best(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several(logs, [0, 3, 6, 40])  # McNemar: 0.25, 2 / 2^6 = 0.031 (0.063 of 3), 2e-12
    make(logs, "digits/untested", {"val/loss": 0.9}, {"net.width": 9})
    compared("digits")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "against digits/0 on the test split: not significantly different: digits/1, digits/2; "
        "significantly worse: digits/3; not tested (of several seeds: pass --seeds A B; else "
        "compare A B says why): digits/untested (p < 0.05 after Holm's correction for 3 tests)"
    )
    compared()
    assert "Holm" not in capsys.readouterr().out


def test_best_row_by_test_metric_is_one_of_all_pairs(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, count in zip(several(logs, [0, 3, 7, 40]), (0, 3, 7, 40), strict=True):
        facts = json.loads((row.paths[0] / "run.json").read_text())
        facts["metrics"]["test/accuracy"] = 1 - count / 200
        (row.paths[0] / "run.json").write_text(json.dumps(facts))
    compared("digits")
    assert "worse: digits/2, digits/3 (" in capsys.readouterr().out
    compared("digits", "--sort", "test/accuracy")  # 2 / 2^7 = 0.0156, and 4 runs have 6 pairs
    line = capsys.readouterr().out.splitlines()[-1]
    assert "worse: digits/3 (p < 0.05 after Holm's correction for 6 tests)" in line


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
        (board,) = rank(rows, metric)
        line = compare_with_best(board)[0]
        found += "significantly worse" in line or "significantly better" in line
    print(f"ranked by {metric}: {found / repeats:.3f}")
    assert found / repeats <= 0.06


def test_two_runs_of_a_study_are_tested_by_their_names(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        make(logs, f"digits/study/seed{seed}", {"val/loss": 0.2 - seed / 10}, {"seed": seed})
    (logs / "digits/study/study.json").write_text("{}")
    for words in ((), ("digits/study",)):
        (board,) = compared(*words)
        assert [row.name for row in board.rows] == ["digits/study (2 seeds)"]
        assert "tested" not in capsys.readouterr().out
    compared("digits/study/seed0", "digits/study/seed1")
    assert "the difference cannot be tested: digits/study/seed0: " in capsys.readouterr().out


def test_two_runs_are_tested(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse, better = (
        make(logs, "digits/1", {"val/loss": 0.2}),
        make(logs, "digits/2", {"val/loss": 0.1}, {"seed": 7}),
    )
    compared("digits")
    assert capsys.readouterr().out.endswith(
        "the difference cannot be tested: digits/1: predictions/test.npz is missing; add a "
        "predict_step to the task, and train with plots (docs/how-to/add-a-task.md)\n"
    )
    classes(worse, np.arange(200) >= 40)
    classes(better, np.ones(200, bool))
    compared("digits")
    told = capsys.readouterr().out.splitlines()[-3:]
    assert told[0] == "A = digits/1, B = digits/2, 200 test samples"
    assert told[1].startswith(
        "B is significantly better by 20.0 points of accuracy (95 % confidence interval "
    )
    make(logs, "digits/3", {"val/loss": 0.3}, {"net.width": 3})
    compared("digits")
    assert "significantly better" not in capsys.readouterr().out
    (board,) = compared("--paired", "digits/2", "digits/1", "digits/3")
    assert [row.name for row in board.rows] == ["digits/3"]
    assert "\nA is significantly better by 20.0 points" in capsys.readouterr().out
    (board,) = compared("--paired", "digits/2", "digits/1")
    assert [row.name for row in board.rows] == ["digits/1 (2 seeds)"]
    assert "\nA is significantly better by 20.0 points" in capsys.readouterr().out
    assert mistakes("compare", "--paired", "digits", "digits/1") == [
        "--paired digits digits/1: expected two runs, got 4"
    ]


def test_real_predictions_differ_as_their_metrics_do(logs: Path) -> None:
    rows = []
    for words in ([], ["net=mlp"]):
        run = train("digits", "trainer.limit_test_batches=null", *words).run
        columns: dict[str, list[Any]] = {}
        data = run.data()
        for number, batch in enumerate(data.loader("test")):  # type: ignore[union-attr]
            found = run.task.predict_step(data.prepare(*batch), 0)  # type: ignore[operator, union-attr]
            found["index"] = data.sample_numbers("test", 0, number)  # type: ignore[union-attr]
            for name, values in found.items():
                columns.setdefault(name, []).append(values.detach().numpy())
        rows.append(
            predictions(
                run.path, **{name: np.concatenate(parts) for name, parts in columns.items()}
            )
        )
    found = compare_paired(*rows)
    one, other = (row.numbers["test/accuracy"] for row in rows)
    assert found.samples == 270
    assert found.gain == pytest.approx(100 * (other - one), abs=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"index": np.arange(2, 12)},
            "digits/A and digits/B: not tested on the same samples (10 and 10, 8 in common)",
        ),
        (
            {"target": np.ones(10)},
            "digits/A and digits/B: different targets for the same sample numbers: the data differ",
        ),
        (
            {"probability": None},
            "digits/A and digits/B: different targets for the same sample numbers: the data differ",
        ),
        (
            {name: np.zeros((0,)) for name in ("index", "target", "prediction", "probability")},
            "digits/A and digits/B: not tested on the same samples (10 and 0, 0 in common)",
        ),
        (
            {"index": np.zeros((0,))},
            "{path}: not readable: target is int64 (10,), index (0,); remove it",
        ),
        ({"index": None}, "{path}: not readable: 'index is not a file in the archive'; remove it"),
    ],
)
def test_unpaired_runs_are_reported(
    logs: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str
) -> None:
    classes(make(logs, "digits/A", {"val/loss": 1.0}), [True] * 10)
    path = make(logs, "digits/B", {"val/loss": 1.0})
    columns = {
        "index": np.arange(10),
        "target": np.arange(10) % 2,
        "prediction": np.ones(10),
        "probability": np.ones(10),
    }
    predictions(path, **{name: v for name, v in {**columns, **changes}.items() if v is not None})
    compared("--paired", "digits/A", "digits/B")
    told = line.replace("{path}", str(path / "predictions" / "test.npz"))
    assert capsys.readouterr().out.splitlines()[-1] == f"the difference cannot be tested: {told}"
    predictions(
        path, **{**columns, "index": np.array([print], dtype=object)}
    )  # would run code as it is read
    compared("--paired", "digits/A", "digits/B")
    assert "Object arrays cannot be loaded when allow_pickle=False" in capsys.readouterr().out
    (path / "predictions" / "test.npz").write_bytes(b"PK\x03\x04 no archive")
    compared("--paired", "digits/A", "digits/B")
    assert f"{path / 'predictions' / 'test.npz'}: not readable: " in capsys.readouterr().out
