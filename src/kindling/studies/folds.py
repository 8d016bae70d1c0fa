"""Cross-validate a config: every sample outside the test set is predicted by a training that did not see it.

    python -m src.crossval [CONFIG] [key=value ...] [--folds 5] [--repeats 1] [--workers 2] [--storage URL] [--name NAME]

Folds are stratified by class, keep groups together, or go by time, as the data says; statistics are those of each
fold's training samples, and the test set stays unseen. A fold is an ordinary run, one of `data.fold=[0,5,0]`.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from src.kindling.config.compose import compose, get
from src.kindling.config.errors import InputError
from src.kindling.runs.run import Run
from src.kindling.studies.plan import Member, Outcome, Plan, for_members
from src.kindling.studies.study import defined_metrics

if TYPE_CHECKING:
    from src.kindling.analysis.predictions import Predictions


def plan_folds(name: str, words: Sequence[str], folds: int, repeats: int, workers: int = 1) -> Plan:
    """The plan of a cross-validation. The data is split once here, so that what cannot be split is told at once.

    Raises:
        InputError: with a line for each mistake.
    """
    from src.kindling.config import instantiate

    if folds < 2 or repeats < 1:
        raise InputError(f"--folds {folds} --repeats {repeats}: expected at least 2 folds, and 1 repetition")
    config = compose(name, words)
    if get(config.values, "data.fold") is not None:
        raise InputError(f"data.fold: a cross-validation sets it; leave it out ({config.origin('data.fold')})")
    instantiate.check(config)
    members = tuple(
        Member(f"repeat{repeat}_fold{fold}", {"data.fold": [fold, folds, repeat]})
        for repeat in range(repeats) for fold in range(folds)
    )  # fmt: skip
    plan = Plan(
        config.name,
        for_members(config, words, workers),
        f"crossval-{folds}",
        members,
        {"folds": folds},
        after=predict_fold,
    )
    try:
        return plan.monitored(members[-1].changes)
    except InputError as error:
        given = f"--repeats {repeats}" if "repetition" in error.lines[0] else f"--folds {folds}"
        raise InputError([line.replace("data.fold:", f"{given}:") for line in error.lines]) from None


def predict_fold(run: Run) -> None:
    """Save what a fold's best checkpoint says of its validation samples."""
    import torch

    from src.kindling.analysis.predictions import predict
    from src.kindling.training.trained_run import TrainedRun

    trained = TrainedRun(run.path)
    there = torch.accelerator.current_accelerator(check_available=True)
    task = trained.task.to(there if there and get(trained.config.values, "trainer.accelerator") != "cpu" else "cpu")
    predict(task, trained.data(), "val").save(run.path / "predictions" / "val.npz")


def gather(plan: Plan, found: Sequence[Outcome]) -> Predictions | None:
    """The predictions of all folds, with the columns `fold` and `repeat`; None where folds lie on other machines."""
    import numpy as np

    from src.kindling.analysis.predictions import Predictions

    parts = []
    for outcome in found:
        path = plan.folder / outcome.name / "predictions" / "val.npz"
        if outcome.state == "finished" and path.exists():
            part = Predictions.load(path)
            number, _, repeat = outcome.changes["data.fold"]
            part.columns |= {"fold": np.full(len(part), number), "repeat": np.full(len(part), repeat)}
            parts.append(part)
    if len(parts) < len(found):
        return None
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    return Predictions(columns, parts[0].spec, "val", scored=parts[0].scored)


def score(predictions: Predictions) -> dict[str, float]:
    """What the task scores each sample by, over all samples together; the mean over the repetitions."""
    import numpy as np

    repeats = [predictions.take(predictions["repeat"] == repeat) for repeat in np.unique(predictions["repeat"])]
    return {predictions.scored: fmean(float(part["score"].mean()) for part in repeats)} if predictions.scored else {}


def interval(values: Sequence[float], share: float, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a mean over folds, all repetitions together: the corrected resampled t.

    Trainings of different folds have most samples in common, so their results vary together, and the usual interval is
    too narrow. The mean's variance is taken as (1/n + share) times that of the n values, with n - 1 degrees of freedom.
    Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003).

    Args:
        values: one of each fold, at least two.
        share: validation samples per training sample, 1/(folds - 1).
        level: how often such an interval holds the expectation.
    """
    from scipy.stats import t

    n = len(values)
    half: float = t.ppf((1 + level) / 2, n - 1) * stdev(values) * math.sqrt(1 / n + share)
    return fmean(values) - half, fmean(values) + half


def summarize(plan: Plan, found: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and interval (`low`, `high`) of each metric over the finished folds.

    A metric that is undefined in one of them is left out.
    """
    finished = [outcome for outcome in found if outcome.state == "finished"]
    share = fmean(_share(plan, outcome) for outcome in finished) if finished else 0.0
    summary: dict[str, dict[str, float]] = {}
    if len(finished) < 2:
        return summary
    for name, values in defined_metrics([outcome.metrics for outcome in finished]).items():
        low, high = interval(values, share)
        summary[name] = {"mean": fmean(values), "std": stdev(values), "low": low, "high": high}
    return summary


def _share(plan: Plan, outcome: Outcome) -> float:
    path = plan.folder / outcome.name / "split.csv"
    if not path.exists():  # it was trained on another machine
        return float(1 / (plan.about["folds"] - 1))
    with path.open(encoding="utf-8", newline="") as file:
        sizes: Counter[str] = Counter(row["split"] for row in csv.DictReader(file))
    return sizes["val"] / sizes["train"]


def draw(plan: Plan, found: Sequence[Outcome], summary: dict[str, dict[str, float]]) -> Path:
    """A picture of each metric's values over the folds, with the mean and its confidence interval."""
    from matplotlib.figure import Figure

    finished = [outcome for outcome in found if outcome.state == "finished"]
    figure = Figure(figsize=(2.2 * len(summary), 3), layout="constrained")
    axes = figure.subplots(1, len(summary), squeeze=False)[0]
    for axis, (name, numbers) in zip(axes, summary.items(), strict=True):
        for outcome in finished:
            fold, folds, repeat = outcome.changes["data.fold"]
            axis.plot(
                repeat + (fold - (folds - 1) / 2) * 0.6 / folds,
                outcome.metrics[name],
                "o",
                color=f"C{repeat}",
                alpha=0.7,
            )
        axis.axhline(numbers["mean"], color="black", linewidth=1)
        axis.axhspan(numbers["low"], numbers["high"], color="0.9", zorder=0)
        axis.set(
            title=name, xlabel="repetition", xticks=sorted({outcome.changes["data.fold"][2] for outcome in finished})
        )
    path = plan.folder / "plots" / "folds.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
