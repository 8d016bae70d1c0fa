"""Cross-validate a config: a training that did not see a sample predicts it.

A fold is an ordinary run with `data.fold=[0,5,0]`: fold, folds, repetition; its test split is the
fold, and its best epoch is chosen on a validation split of the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import compose, get
from src.kindling.config.errors import InputError
from src.kindling.runs.files import display_path
from src.kindling.runs.metric_names import is_share, parse_name
from src.kindling.studies.plan import Plan, TrialResult, make_plan
from src.kindling.studies.study import Summary, print_summary, summarize

if TYPE_CHECKING:
    from src.kindling.analysis.predictions import Predictions


def plan_folds(name: str, overrides: Sequence[str], flags: Any) -> Plan:
    """Plan a cross-validation; split the data once, and raise InputError if that is impossible."""
    folds, repeats = flags.folds, flags.repeats
    if folds < 2 or repeats < 1:
        given = f"--folds {folds} --repeats {repeats}"
        raise InputError(f"{given}: expected at least 2 folds and 1 repetition")
    config = compose(name, overrides)
    if get(config.values, "data.fold") is not None:
        origin = config.origin("data.fold")
        raise InputError(f"data.fold: a cross-validation sets it; leave it out ({origin})")

    from src.kindling.config import instantiate
    from src.kindling.config.targets import locate
    from src.kindling.data.data_module import DataModule

    instantiate.check(config)
    target = get(config.values, "data._target_")
    data: Any = locate(target) if target else None
    if not (isinstance(data, type) and issubclass(data, DataModule)):
        name = data.__name__ if data else "the task's own data"
        remedy = "src.crossval needs a subclass of src.kindling.data.DataModule"
        raise InputError(f"data: {name} cannot be split into folds; {remedy}")
    members = {
        f"repeat{repeat}_fold{fold}": {"data.fold": [fold, folds, repeat]}
        for repeat in range(repeats)
        for fold in range(folds)
    }
    about = {"folds": folds, "epoch": "chosen on an inner validation split"}
    plan = make_plan(config, overrides, flags, f"crossval-{folds}", members)
    plan = replace(plan, about=about, stages=("val", "test"))
    try:
        return plan.with_monitor({"data.fold": [folds - 1, folds, repeats - 1]})
    except InputError as error:
        flag = f"--repeats {repeats}" if "repetition" in error.lines[0] else f"--folds {folds}"
        raise InputError([line.replace("data.fold:", f"{flag}:") for line in error.lines]) from None


def gather_predictions(paths: Sequence[Path], folds: Sequence[list[int]]) -> Predictions:
    """Concatenate the predictions of all folds, with the columns `fold` and `repeat`."""
    import numpy as np

    from src.kindling.analysis.predictions import Predictions

    parts = [Predictions.load(path) for path in paths]
    for part, (fold, _, repeat) in zip(parts, folds, strict=True):
        part.columns |= {"fold": np.full(len(part), fold), "repeat": np.full(len(part), repeat)}
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    return Predictions(columns, parts[0].spec, "test", scored=parts[0].scored)


def summarize_folds(plan: Plan, finished: Sequence[TrialResult]) -> Summary:
    """Mean, standard deviation and interval (`low`, `high`) of each metric of held-out folds."""
    import pandas as pd

    from src.kindling.analysis.intervals import mean_interval, within_limits

    means, ratios, samples = summarize(finished), [], 0
    summary = {name: row for name, row in means.items() if parse_name(name)[0] != "val"}
    for result in finished:
        ratio, path = 1 / (plan.about["folds"] - 1), plan.folder / result.name / "split.csv"
        if path.exists():  # else the run is on another machine
            sizes = pd.read_csv(path)["split"].value_counts()
            ratio = float(sizes["test"] / (sizes["train"] + sizes["val"]))
            samples += int(sizes["test"])
        ratios.append(ratio)
    for name, row in summary.items():
        values = [result.metrics[name] for result in finished]
        interval = mean_interval(values, None, is_share(name), fmean(ratios), samples or None)
        if interval:
            row["low"], row["high"] = within_limits(name, interval)
    return summary


def plot_folds(plan: Plan, finished: Sequence[TrialResult], summary: Summary) -> Path:
    """Plot each metric over the folds, with its mean and confidence interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(summary), 3), layout="constrained")
    axes = figure.subplots(1, len(summary), squeeze=False)[0]
    for axis, (name, row) in zip(axes, summary.items(), strict=True):
        for result in finished:
            fold, folds, repeat = result.changes["data.fold"]
            x = repeat + (fold - (folds - 1) / 2) * 0.6 / folds
            axis.plot(x, result.metrics[name], "o", color=f"C{repeat}", alpha=0.7)
        axis.axhline(row["mean"], color="black", linewidth=1)
        if "low" in row:
            axis.axhspan(row["low"], row["high"], color="0.9", zorder=0)
        repeats = sorted({result.changes["data.fold"][2] for result in finished})
        axis.set(title=name, xlabel="repetition", xticks=repeats)
    path = plan.folder / "plots" / "folds.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def report_folds(plan: Plan, results: Sequence[TrialResult]) -> tuple[dict[str, Any], list[str]]:
    """Print the summary, write plot and predictions; return the facts for study.json, and lines."""
    from src.kindling.data.folds import FOLD_RESULT

    finished = [result for result in results if result.state == "finished"]
    summary = summarize_folds(plan, finished)
    extra: dict[str, Any] = {"summary": summary}
    lines = [*print_summary(summary, "mean ± std"), f"{FOLD_RESULT}."]
    print(f"folds      {FOLD_RESULT}")
    if summary:
        print(f"plot       {display_path(plot_folds(plan, finished, summary))}")
    paths = {one.name: plan.folder / one.name / "predictions" / "test.npz" for one in results}
    found = [one.name for one in finished if paths[one.name].exists()]
    if missing := [name for name in paths if name not in found]:
        print(f"all folds  not scored together: {', '.join(missing)} failed or on another machine")
        return extra, lines
    folds = [result.changes["data.fold"] for result in results]
    predictions = gather_predictions([*paths.values()], folds)
    path = plan.folder / "predictions.npz"
    predictions.save(path)
    extra["out_of_fold"], score = {}, ""
    if name := predictions.scored:
        repeat, scores = predictions["repeat"], predictions["score"]
        mean = fmean(float(scores[repeat == number].mean()) for number in set(repeat.tolist()))
        extra["out_of_fold"], score = {name: mean}, f"{name} {mean:.4f}"
    print(f"all folds  {score}; predictions: {display_path(path)}")
    return extra, lines
