"""Cross-validation: a training that did not see a sample predicts it; the test set is unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from scipy.stats import norm
from torch import Tensor, nn

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.predictions import Predictions
from src.kindling.config.errors import InputError
from src.kindling.data.folds import fold_samples
from src.kindling.data.samples import Samples
from src.kindling.data.split import Indices, split_samples
from src.kindling.runs.metric_names import is_share
from src.kindling.studies.folds import summarize_folds
from src.kindling.studies.plan import TrialResult
from src.kindling.training.build import build_data
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, as_own_task, call, checked, mistakes, train

SPLIT = (0.7, 0.1, 0.2)
LONG = (*LITTLE[:1], *LITTLE[4:])


def folds_interval(
    values: list[float], overlap: float, share: bool = False, samples: int | None = None
) -> tuple[float, float]:
    found = mean_interval(values, share=share, overlap=overlap, samples=samples)
    assert found is not None
    return found


def folds_of(samples: Samples, folds: int = 4, repeat: int = 0) -> tuple[Indices, list[Indices]]:
    """The ordinary split, and that of each fold."""
    whole = split_samples(samples, SPLIT, 0)
    return whole, [
        fold_samples(samples, whole, (number, folds, repeat), 0) for number in range(folds)
    ]


def made(count: int = 120, classes: int = 3, **options: object) -> Samples:
    y = torch.arange(count) % classes if classes else torch.rand(count, 1)
    names = tuple("abcdef"[:classes])
    return Samples(
        x=torch.rand(count, 4), y=y, classes=names, columns=("p", "q", "r", "s"), **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [0, 3])
def test_each_sample_outside_the_test_set_is_in_one_fold(classes: int) -> None:
    samples = made(classes=classes)
    whole, folds = folds_of(samples)
    pool = torch.cat([whole["train"], whole["val"]]).sort().values
    assert torch.equal(torch.cat([fold["test"] for fold in folds]).sort().values, pool)
    for fold in folds:
        assert torch.equal(torch.cat(list(fold.values())).sort().values, pool)
        assert len(fold["val"]) == 9  # of 72, as many as 12 of 96
        for stage in ("test", "val") if classes else ():
            counts = torch.bincount(samples.y[fold[stage]])  # type: ignore[index]
            assert counts.max() - counts.min() <= 1
    again, other = folds_of(samples)[1], folds_of(samples, repeat=1)[1]
    for stage in ("test", "val"):
        assert torch.equal(folds[0][stage], again[0][stage])  # type: ignore[index]
        assert not torch.equal(folds[0][stage], other[0][stage])  # type: ignore[index]


@pytest.mark.parametrize("classes", [0, 3])
def test_group_stays_on_one_side(classes: int) -> None:
    samples = made(classes=classes, groups=torch.arange(120) // 6)
    assert samples.groups is not None
    whole, folds = folds_of(samples)
    unseen = set(samples.groups[whole["test"]].tolist())
    for fold in folds:
        sides = [set(samples.groups[fold[stage]].tolist()) for stage in ("train", "val", "test")]  # type: ignore[index]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert not unseen & set.union(*sides)
        assert len(sides[1]) >= 1
        assert len(sides[2]) >= 3


def test_chronological_folds_train_on_older_samples() -> None:
    samples = made(time=torch.randperm(120, generator=torch.Generator().manual_seed(0)))
    assert samples.time is not None
    whole, folds = folds_of(samples)
    for fold in folds:
        assert samples.time[fold["train"]].max() < samples.time[fold["val"]].min()
        assert samples.time[fold["val"]].max() < samples.time[fold["test"]].min()
    assert samples.time[whole["test"]].min() > samples.time[folds[-1]["test"]].max()
    with pytest.raises(InputError) as caught:
        fold_samples(samples, whole, (0, 4, 1), 0)
    assert caught.value.lines == [
        "data.fold: chronological folds are the same in every repetition; set one repetition"
    ]


def test_official_validation_set_joins_the_folds() -> None:
    samples = made(official={"val": torch.arange(100, 110), "test": torch.arange(110, 120)})
    whole, folds = folds_of(samples)
    assert torch.equal(torch.cat([fold["test"] for fold in folds]).sort().values, torch.arange(110))
    assert not torch.isin(whole["test"], torch.cat(list(folds[0].values()))).any()


@pytest.mark.parametrize(
    ("samples", "fold", "line"),
    [
        (
            made(30),
            (0, 9, 0),
            "data.fold: 9 folds need as many samples of class 'a' outside the test set, the smallest class; "
            "there are 8",
        ),
        (
            made(30, 0),
            (0, 30, 0),
            "data.fold: 30 folds need as many samples outside the test set; there are 24",
        ),
        (
            made(30, 3, groups=torch.arange(30) // 5),
            (0, 6, 0),
            "data.fold: 6 folds need as many groups outside the test set; there are 5",
        ),
        (
            made(30),
            (4, 4, 0),
            "data.fold: expected a fold's number from 0, at least 2 folds, and a repetition from 0, got "
            "[4, 4, 0]",
        ),
    ],
)
def test_impossible_folds_are_refused(
    samples: Samples, fold: tuple[int, int, int], line: str
) -> None:
    with pytest.raises(InputError) as caught:
        fold_samples(samples, split_samples(samples, SPLIT, 0), fold, 0)
    assert caught.value.lines == [line]


def test_fold_uses_statistics_of_its_training_samples() -> None:
    data = build_data(checked("diabetes", "data.fold=[1,3,0]", "num_threads=1"))
    x = data.samples.x[data.indices["train"]].double()  # type: ignore[index]
    assert [column.mean for column in data.spec.columns] == pytest.approx(
        x.mean(dim=0).tolist(), rel=1e-6
    )
    whole = build_data(checked("diabetes", "num_threads=1"))
    assert data.spec.columns[0].mean != whole.spec.columns[0].mean
    assert not torch.isin(whole.indices["test"], torch.cat(list(data.indices.values()))).any()


def test_interval_is_the_corrected_resampled_t() -> None:
    values = [0.91, 0.95, 0.93, 0.97, 0.94]
    low, high = folds_interval(values, 1 / 4)
    # t(0.975, 4) = 2.776445; sqrt(1/5 + 1/4) = 0.670820; the usual interval has sqrt(1/5) = 0.447214.
    half = 2.776445 * stdev(values) * 0.670820
    assert (low, high) == (
        pytest.approx(0.94 - half, abs=1e-6),
        pytest.approx(0.94 + half, abs=1e-6),
    )
    assert folds_interval(values, 0)[1] == pytest.approx(
        0.94 + 2.776445 * stdev(values) * 0.447214, abs=1e-6
    )


def test_interval_of_a_share_is_wilsons() -> None:
    values = [0.95, 0.99, 1.0, 0.99, 0.99]
    low, high = folds_interval(values, 1 / 4, share=True)
    # Wilson's ends p solve (mean - p)² = t² p (1 - p) / n, with t(0.975, 4)² = 7.708647 and the effective
    # sample size n = 0.984 * 0.016 / (0.00038 * (1/5 + 1/4)).
    for end in (low, high):
        assert (0.984 - end) ** 2 == pytest.approx(7.708647 * end * (1 - end) / 92.070, rel=1e-4)
    assert low < 0.984 < high < 1
    assert folds_interval(values, 1 / 4)[1] > 1
    # About a half, it is the t-interval; and a percentage is no share.
    about_half = [0.49, 0.5, 0.51, 0.5, 0.5]
    assert folds_interval(about_half, 1 / 4, share=True) == pytest.approx(
        folds_interval(about_half, 1 / 4), abs=1e-4
    )
    # Without a mistake, Wilson's of all samples, with t(0.975, 1)² = 161.45 and 1 + 2 / 4 times the variance.
    faultless = folds_interval([1.0, 1.0], 1 / 4, share=True, samples=60)
    assert faultless == pytest.approx((60 / (60 + 1.5 * 161.45), 1), rel=1e-4)
    below = folds_interval([0.0, 0.0], 1 / 4, share=True, samples=60)
    assert below == pytest.approx((0, 1 - faultless[0]))
    assert folds_interval([98, 99], 1 / 4, share=True) == folds_interval([98, 99], 1 / 4)


@pytest.mark.parametrize(
    ("names", "share"),
    [
        (
            "val/accuracy val_acc val/average_precision val/exact_match val/iou_circle valid_f1",
            True,
        ),
        (
            "val/loss val/mae_precision val/r2 val/kappa val/mcc val/dice_loss val/mean_predictor_mae",
            False,
        ),
    ],
)
def test_share_follows_the_metrics_name(names: str, share: bool) -> None:
    assert {is_share(name) for name in names.split()} == {share}


@pytest.mark.parametrize(("share", "size"), [(0.97, 100), (0.99, 20), (0.8, 6)])
def test_interval_of_a_share_has_its_coverage(share: float, size: int) -> None:
    # Five folds; their shares are independent, so that the ratio is 0. Of 100 samples with a share of 0.99, a
    # third are without a mistake.
    random, held, outside = np.random.default_rng(0), 0, 0
    for _ in range(400):
        shares = (random.binomial(size, share, size=5) / size).tolist()
        low, high = folds_interval(shares, 0, share=True, samples=5 * size)
        held += low <= share <= high
        outside += low < 0 or high > 1
    assert held >= 0.93 * 400
    assert outside == 0


@pytest.mark.long
@pytest.mark.parametrize("n", [30, 100, 270])
@pytest.mark.parametrize("distance", [1.7, 3.3, 4.7])
def test_interval_of_cross_validated_accuracy_has_its_coverage(n: int, distance: float) -> None:
    """A classifier by the nearest mean of two normal distributions in five dimensions."""
    random, held, means = np.random.default_rng(0), [], []
    y, center = np.arange(n) % 2, np.array([distance / 2, 0, 0, 0, 0])
    for _ in range(400):
        x = random.normal(size=(n, 5)) + center * (2 * y - 1)[:, None]
        shares = []
        for fold in np.array_split(random.permutation(n), 5):
            rest = np.setdiff1d(np.arange(n), fold)
            low, high = (x[rest][y[rest] == i].mean(axis=0) for i in (0, 1))
            normal, threshold = high - low, (high - low) @ (high + low) / 2
            shares.append(float(((x[fold] @ normal > threshold) == y[fold]).mean()))
            sides = np.array([normal @ center - threshold, normal @ center + threshold])
            means.append(norm.cdf(sides / np.linalg.norm(normal)).mean())
        held.append(folds_interval(shares, 1 / 4, share=True, samples=n))
    ends, expected = np.array(held), np.mean(means)  # the accuracy of such trainings on new samples
    covered = np.mean((ends[:, 0] <= expected) & (expected <= ends[:, 1]))
    print(f"{n} samples, accuracy {expected:.3f}: coverage {covered:.3f}")
    assert covered >= 0.93
    assert ends.min() >= 0
    assert ends.max() <= 1


def test_folds_without_a_mistake_have_the_interval_of_their_samples(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(folder=tmp_path, about={"folds": 2})
    finished = [
        TrialResult(f"repeat0_fold{i}", "finished", {}, metrics={"test/accuracy": 1.0})
        for i in (0, 1)
    ]
    for result in finished:
        (tmp_path / result.name).mkdir()
        splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 30
        pd.DataFrame({"split": splits}).to_csv(tmp_path / result.name / "split.csv")
    row = summarize_folds(plan, finished)["test/accuracy"]
    expected = folds_interval([1.0, 1.0], 1.0, share=True, samples=60)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    assert row["low"] < 1


def test_equal_folds_have_an_interval() -> None:
    low, high = folds_interval([0.95] * 5, 0.25, share=True, samples=100)
    assert low < 0.9 < 0.98 < high < 1
    assert (low, high) == pytest.approx(folds_interval([0.95] * 5, 0.25, True, 100))


def test_corrected_interval_has_its_coverage() -> None:
    # Means of the class are estimated on folds that share a training set's noise, as models of overlapping sets do.
    random, held = np.random.default_rng(0), {"corrected": 0, "usual": 0}
    for _ in range(400):
        y = random.normal(size=60)
        folds = np.array_split(random.permutation(60), 5)
        errors = [float(np.mean((y[fold] - np.delete(y, fold).mean()) ** 2)) for fold in folds]
        for name, share in (("corrected", 1 / 4), ("usual", 0.0)):
            low, high = folds_interval(errors, share)
            held[name] += low < 1 + 1 / 48 < high
    assert held["corrected"] > held["usual"]
    assert held["corrected"] >= 0.95 * 400


def test_cross_validation_of_a_regression(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call("crossval", "diabetes", *LONG, "--folds", "3", "--repeats", "2")
    output = capsys.readouterr().out
    folder = logs / "diabetes/crossval-3"
    study = json.loads((folder / "study.json").read_text())
    page = (folder / "report.html").read_text()
    assert '<img alt="folds" src="data:image/png;base64,' in page
    assert f"test/mae: {study['summary']['test/mae']['mean']:.4f} ± " in page
    result = "test/… is measured on the held-out fold, with the best epoch on a validation split"
    assert f"\nfolds      {result}\n" in output
    assert f"{result}." in page
    assert not [name for name in study["summary"] if not name.startswith("test/")]
    assert f">diabetes/{folder.name} (" in page
    maes = [outcome.metrics["test/mae"] for outcome in found]  # type: ignore[attr-defined]
    assert len(set(maes)) == 6
    numbers = study["summary"]["test/mae"]
    assert (numbers["mean"], numbers["std"]) == (fmean(maes), stdev(maes))
    sizes = [
        load_run(f"diabetes/crossval-3/repeat0_fold{fold}").data().indices for fold in range(3)
    ]
    share = fmean(len(size["test"]) / (len(size["train"]) + len(size["val"])) for size in sizes)
    assert (numbers["low"], numbers["high"]) == pytest.approx(folds_interval(maes, share))
    line = f"test/mae {fmean(maes):.4f} ± {stdev(maes):.4f} {numbers['low']:.4f} to {numbers['high']:.4f}"
    assert line in " ".join(output.split())

    for fold in range(3):  # each fold's statistics are those of its own training samples
        run, train_index = load_run(f"diabetes/crossval-3/repeat0_fold{fold}"), sizes[fold]["train"]
        means = run.data().samples.x[train_index].double().mean(dim=0)
        assert [column.mean for column in run.spec.columns] == pytest.approx(
            means.tolist(), rel=1e-5
        )

    everything = Predictions.load(folder / "predictions.npz")
    pool = torch.cat(list(sizes[0].values())).sort().values.numpy()
    for repeat in (0, 1):
        part = everything.take(everything["repeat"] == repeat)
        assert np.array_equal(np.sort(part["index"]), pool)
    off = np.abs(everything["prediction"] - everything["target"])
    assert study["out_of_fold"]["mae"] == pytest.approx(float(off.mean()))
    fold = everything.take((everything["fold"] == 1) & (everything["repeat"] == 0))
    error = np.abs(fold["prediction"] - fold["target"]).mean()
    assert error == pytest.approx(found[1].metrics["test/mae"], rel=1e-5)  # type: ignore[index]
    assert (folder / "plots/folds.png").stat().st_size > 5_000

    ordinary = train(
        "diabetes",
        "trainer.limit_train_batches=1.0",
        "trainer.limit_val_batches=1.0",
        "trainer.limit_test_batches=1.0",
        "data.fold=[2,3,1]",
        "trainer.devices=1",
    )
    assert ordinary.metrics == found[5].metrics  # type: ignore[index]


def test_more_repetitions_continue_a_study(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing takes a second; the study of a regression draws.
    monkeypatch.setattr("src.kindling.studies.folds.plot_folds", lambda plan, *_: plan.folder)
    monkeypatch.setattr("src.kindling.analysis.leaderboard_formats._draw_curves", lambda *_: "")
    call("crossval", "digits", *LITTLE, "--folds", "2")
    folder = logs / "digits/crossval-2"
    summary = json.loads((folder / "study.json").read_text())["summary"]
    accuracy = summary["test/accuracy"]  # of two folds, the t-interval is wider than [0, 1]
    assert 0 <= accuracy["low"] < accuracy["mean"] < accuracy["high"] <= 1
    away = logs / "away"  # the run of a fold that another machine trained
    (folder / "repeat0_fold1").rename(away)
    (folder / "repeat0_fold1").mkdir()
    shutil.copy(away / "trial.json", folder / "repeat0_fold1")
    capsys.readouterr()
    call("crossval", "digits", *LITTLE, "--folds", "2")
    output = capsys.readouterr().out
    assert (
        "\nall folds  not scored together: repeat0_fold1 failed or on another machine\n" in output
    )
    study = json.loads((folder / "study.json").read_text())
    assert study["summary"]["test/accuracy"]["mean"] == summary["test/accuracy"]["mean"]
    assert "out_of_fold" not in study

    shutil.rmtree(folder / "repeat0_fold1")
    away.rename(folder / "repeat0_fold1")
    call("crossval", "digits", *LITTLE, "--folds", "2", "--repeats", "2")
    output = capsys.readouterr().out
    line = "digits/crossval-2: 4 members, 2 to run, 1 at a time\n3/4  repeat1_fold0  val/loss "
    assert line in output
    assert "\nall folds  accuracy 0." in output

    study = json.loads((folder / "study.json").read_text())
    del study["settings"]["epoch"]  # of a version that chose the epoch on the fold
    (folder / "study.json").write_text(json.dumps(study))
    assert mistakes("crossval", "digits", *LITTLE, "--folds", "2") == [
        "epoch: digits/crossval-2 has None, not chosen on an inner validation split",
        "digits/crossval-2: a study keeps its settings; for another study: --name crossval-2_2",
    ]


def test_task_without_test_step_is_refused(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("val_loss", loss)
            return loss

        validation_step = training_step  # type: ignore[assignment]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    assert mistakes("crossval", "digits", as_own_task(Plain, monkeypatch)) == [
        "task: Plain has no test_step, which measures the held-out fold; add one"
    ]
    assert not list(logs.iterdir())


def test_coin_flips_are_predicted_by_half(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The best of forty epochs on the fold itself has an accuracy of 0.61.
    monkeypatch.setattr("src.kindling.studies.folds.plot_folds", lambda plan, *_: plan.folder)
    monkeypatch.setattr("src.kindling.analysis.leaderboard_formats._draw_curves", lambda *_: "")
    draw = np.random.default_rng(1)
    coins = pd.DataFrame(draw.normal(size=(150, 3)), columns=["a", "b", "c"])
    coins["side"] = draw.permutation(["heads", "tails"] * 75)
    coins.to_csv(path := tmp_path / "coins.csv", index=False)
    words = f"data.path={path} data.target=side data.split=[0.7,0.3,0] data.batch_size=64"
    speed = "net.hidden=[4] net.dropout=0 task.optimizer.lr=0.3 trainer.max_epochs=40 callbacks={}"
    long = "monitor=val/accuracy num_threads=1 trainer.accelerator=cpu --folds 3"
    call("crossval", "table", *words.split(), *speed.split(), *long.split())
    study = json.loads((logs / "table/crossval-3/study.json").read_text())
    error = (0.25 / 150) ** 0.5
    assert study["out_of_fold"]["accuracy"] == pytest.approx(0.5, abs=1.5 * error)
    row = study["summary"]["test/accuracy"]
    assert row["low"] < 0.5 < row["high"]


@pytest.mark.parametrize(
    ("given", "key", "remedy"),
    [
        (("--folds", "1"), "--folds 1 --repeats 1: ", "at least 2 folds"),
        (("--folds", "200"), "--folds 200: ", "there are 148"),
        (("data.fold=[0,5,0]",), "data.fold: ", "leave it out (command line)"),
        (("net.widht=3",), "net.widht: ", "(command line)"),
    ],
)
def test_mistakes_are_refused_before_training(
    given: tuple[str, ...], key: str, remedy: str, logs: Path
) -> None:
    (line,) = mistakes("crossval", "digits", *given)
    assert line.startswith(key)
    assert remedy in line
    assert not list(logs.iterdir())
