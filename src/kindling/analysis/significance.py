"""Test whether two runs differ, or two configs that are each trained with several seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from src.kindling.analysis.intervals import mean_interval
from src.kindling.analysis.leaderboard import (
    MEASURED,
    Leaderboard,
    Row,
    find_differing_keys,
    mode_of,
    read_seeds,
)
from src.kindling.analysis.prediction_columns import Predictions
from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.runs.files import read_json
from src.kindling.runs.metric_names import canonical_name, mode_by_name, parse_name

ROUNDING = 1e-3  # of a gain; gains that vary by less are the same
METRIC_NAMES = {"mae": "mean absolute error", "iou": "mean IoU"}

Scores = dict[Any, float]  # of several trainings, by seed


@dataclass(frozen=True)
class Difference:
    """The gain of B over A, and half of its 95 % confidence interval."""

    gain: float  # in the metric; in points, where scores are right or wrong
    margin: float
    metric: str
    basis: str  # the test and its p value, or the number of seeds
    p: float | None = None  # None where the interval is the only test
    samples: int = 0

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, and the test agrees."""
        return abs(self.gain) > self.margin and (self.p is None or self.p < 0.05)

    def __str__(self) -> str:
        leader, lead = "A" if self.gain < 0 else "B", abs(self.gain)
        digits = ".1f" if self.metric.startswith("points") else ".4g"
        ends = f"{lead - self.margin:{digits}} to {lead + self.margin:{digits}}"
        by = f"by {lead:{digits}} {self.metric} (95 % confidence interval {ends}; {self.basis})"
        if self.significant:
            return f"{leader} is significantly better {by}"
        how = f"{leader} leads" if lead else "they differ"
        return f"no significant difference between A and B: {how} {by}"


def compare_paired(one: Row, other: Row) -> Difference:
    """Compare two runs, A and B, sample by sample; samples of one group count as one observation.

    By the t-interval and t-test of the mean difference, or a sign test where all are the same; for
    independent samples that are right or wrong, by McNemar's exact test. Raises InputError without
    predictions of the same samples.
    """
    a, b = read_scores([one, other])
    n, lower_is_better = len(a), mode_by_name(a.scored) == "min"
    is_right_or_wrong = not lower_is_better and np.isin([a["score"], b["score"]], (0, 1)).all()
    gains = b["score"].astype(float) - a["score"]
    if lower_is_better:
        gains *= -1
    elif is_right_or_wrong:
        gains *= 100  # points
    gain, groups = float(gains.mean()), b.columns.get("group", a.columns.get("group"))
    count = n if groups is None else len(np.unique(groups))
    margin = half_width(gains, groups)
    test = "t-test" if groups is None else f"t-test over {format_count(count, 'group')}"
    if is_right_or_wrong and groups is None:
        won, lost = int((gains > 0).sum()), int((gains < 0).sum())
        test, p = "McNemar", float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    elif margin > ROUNDING * abs(gain):
        p = 2 * float(t.sf(abs(gain) / margin * t.ppf(0.975, count - 1), count - 1))
    else:  # all gains are the same, and show only which run leads
        test, p = test.replace("t-test", "sign test"), 2 * 0.5**count if gain else 1.0
    metric = f"{'points of' if is_right_or_wrong else 'in'} {name_score(a.scored)}"
    return Difference(gain, margin, metric, f"{test}: p = {p:.2g}", p, n)


def half_width(values: Any, groups: Any = None) -> float:
    """Compute half of the 95 % t-interval of a mean; raise InputError if there is none."""
    interval = mean_interval(values, groups)
    if interval is None:
        problem = "fewer than two independent test samples, groups or seeds, or one without a score"
        raise InputError(f"{problem}; there is no interval")
    return (interval[1] - interval[0]) / 2


def name_score(scored: str) -> str:
    """Name a score in messages: `mean absolute error` for `mae`."""
    return METRIC_NAMES.get(scored, scored.replace("_", " "))


def format_comparison(one: Row, other: Row) -> list[str]:
    """Describe in lines whether two runs differ, or why this cannot be tested."""
    try:
        found = compare_paired(one, other)
    except InputError as error:
        return [f"the difference cannot be tested: {line}" for line in error.lines]
    return [
        f"A = {one.name}, B = {other.name}, {found.samples:,} test samples",
        str(found),
        "not covered: other seeds, which may reverse it (train with --seeds 0,1,2, and compare "
        "--seeds A B)",
    ]


def compare_with_best(board: Leaderboard) -> list[str]:
    """List in a line the single runs that differ significantly from the best row, after Holm."""
    best, *others = board.rows
    found: dict[str, Difference] = {}
    for row in others:
        with suppress(InputError):
            if len(best.paths) == len(row.paths) == 1:
                found[row.name] = compare_paired(best, row)
    # A test metric may have chosen any of them as the best, so it makes a test of each pair.
    by_validation = board.columns[1].startswith("val/")
    count = len(found) if by_validation else math.comb(len(found) + 1, 2)
    adjusted = holm([one.p or 0.0 for one in found.values()], count)
    names: dict[str, list[str]] = defaultdict(list)
    for (name, one), p in zip(found.items(), adjusted, strict=True):
        is_significant = one.significant and p < 0.05
        verdict = "significantly better" if one.gain > 0 else "significantly worse"
        names[verdict if is_significant else "not significantly different"].append(name)
    if untested := [row.name for row in others if row.name not in found]:
        names["not tested (of several seeds: pass --seeds A B; else compare A B says why)"] = (
            untested
        )
    verdicts = "; ".join(f"{verdict}: {join_names(some, 20)}" for verdict, some in names.items())
    tests = f"p < 0.05 after Holm's correction for {format_count(count, 'test')}"
    tests = f" ({tests})" if found else ""
    return [f"against {best.name} on the test split: {verdicts}{tests}"] if others else []


def holm(p_values: Sequence[float], count: int) -> list[float]:
    """Adjust p values of `count` tests for the chance of any false positive.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def read_scores(runs: Sequence[Row]) -> list[Predictions]:
    """Read the test predictions of runs by sample number, each with a column `score`.

    Raises InputError when they are missing, or are not of the same samples.
    """
    a, *others = found = [_read_predictions(run) for run in runs]
    for b, run in zip(others, runs[1:], strict=True):
        pair = f"{runs[0].name} and {run.name}"
        if not len(a) or not np.array_equal(a["index"], b["index"]):
            common = len(np.intersect1d(a["index"], b["index"]))
            sizes = f"{len(a):,} and {len(b):,}, {common:,} in common"
            raise InputError(f"{pair}: not tested on the same samples ({sizes})")
        if not np.array_equal(a["target"], b["target"]) or a.scored != b.scored:
            problem = "different targets for the same sample numbers: the data differ"
            raise InputError(f"{pair}: {problem}")
    return found


def _read_predictions(run: Row) -> Predictions:
    path = run.paths[0] / "predictions" / "test.npz"
    if not path.exists():
        fix = "add a predict_step to the task, and train with plots (docs/how-to/add-a-task.md)"
        raise InputError(f"{run.name}: predictions/test.npz is missing; {fix}")
    found = Predictions.load(path)
    columns = found.columns
    shapes = {name: columns[name].shape for name in ("target", "prediction") if name in columns}
    problem = ""
    if "target" not in shapes or not {"prediction", "score"} & {*columns}:
        problem = f"no column '{'prediction' if 'target' in shapes else 'target'}'"
    elif "score" not in columns and shapes["prediction"] != shapes["target"]:
        problem = f"'prediction' is {shapes['prediction']}, 'target' {shapes['target']}"
    elif "score" not in columns:  # a run of an earlier version
        found.scored = "accuracy" if "probability" in columns else "mae"
        error = np.abs(found["prediction"] - 1.0 * found["target"])
        scores = error == 0 if found.scored == "accuracy" else error
        columns["score"] = scores.mean(axis=tuple(range(1, scores.ndim)))
    if not problem and not found["score"].ndim == columns.get("group", found["index"]).ndim == 1:
        problem = f"'score' is {found['score'].shape}"
    if problem:
        raise InputError(
            f"{run.name}: predictions/test.npz has no score for each sample ({problem}); return "
            "'target' and 'prediction' of the same shape from predict_step, or the columns of "
            "self.outputs, and train again (docs/how-to/add-a-task.md)"
        )
    return found.take(np.argsort(found["index"]))


def compare_seeds(
    a: Scores, b: Scores, metric: str, mode: str | None, margin: float = 0.0
) -> Difference:
    """Compare the mean scores of two configs: paired, where the seeds are the same.

    Margins, such as that over test samples, add up by their squares to an interval that covers at
    least 95 % (Banerjee, Sankhya 22, 1960).
    """
    is_paired = a.keys() == b.keys()
    parts = [[b[seed] - a[seed] for seed in a]] if is_paired else [[*a.values()], [*b.values()]]
    gain = (fmean(b.values()) - fmean(a.values())) * (-1 if mode == "min" else 1)
    margin = math.hypot(margin, *map(half_width, parts))
    seeds = f"over {len(a)} paired seeds" if is_paired else f"over {len(a)} and {len(b)} seeds"
    p = None
    if gain and margin <= ROUNDING * abs(gain):  # only which config leads is known
        p = 2 / (2 ** len(a) if is_paired else math.comb(len(a) + len(b), len(a)))
        test = "sign test" if is_paired else "permutation test"
        seeds += f" with the same difference; {test}: p = {p:.2g}"
    return Difference(gain, margin, f"in {metric}", seeds, p)


def format_seed_comparison(words: Sequence[str], metric: str | None) -> list[str]:
    """Compare two sets of seeds, each a study, a folder or a pattern; return lines.

    By the score of the test samples, and the variance over samples too (Bouthillier et al., MLSys
    2021); if `metric` is given, or the test samples differ, by a final metric.

    Raises InputError when a word is not a set of seeds of one config, or they cannot be compared.
    """
    (one, runs), (other, others) = map(read_seeds, words)
    if differing := {*MEASURED} & {*find_differing_keys([one.config, other.config])}:
        keys = join_names(sorted(differing))
        raise InputError(f"--seeds {' '.join(words)}: not of the same data ({keys} differ)")
    count, runs = len(runs), runs + others
    values: list[Any] = []
    margin, covered = 0.0, "not covered: other samples"
    if metric is None:
        try:
            values, name, margin, covered = _score_samples(runs, count)
        except InputError as error:
            covered += f" ({error.lines[0]})"
    if not values:
        _require_same_split(words, [one, other])
        tested = f"test/{parse_name(one.monitor)[1]}"
        name = canonical_name(metric or (tested if tested in one.numbers else one.monitor))
        values = [run.numbers.get(name) for run in runs]
    if None in values:
        raise InputError(f"--seeds: not all runs have a finite {name}; pass --sort METRIC")
    by_seed = [(run.config["seed"], value) for run, value in zip(runs, values, strict=True)]
    a, b = dict(by_seed[:count]), dict(by_seed[count:])
    found = compare_seeds(a, b, name, mode_of([one], name), margin)
    lines = [
        f"{label} = {row.name}: {name} {fmean(scores.values()):.4f} ± {stdev(scores.values()):.4f}"
        for label, row, scores in (("A", one, a), ("B", other, b))
    ]
    return [*lines, str(found), *_format_wins(a, b, found), covered]


def _score_samples(runs: Sequence[Row], count: int) -> tuple[list[float], str, float, str]:
    """Mean scores and their name; the margin of the gain over the first `count`, and its note."""
    predictions = read_scores(runs)
    scores = np.stack([found["score"].astype(float) for found in predictions])
    groups, size = predictions[0].columns.get("group"), f"{len(predictions[0]):,} test samples"
    size += "" if groups is None else f" in {format_count(len(set(groups)), 'group')}"
    margin = half_width(scores[count:].mean(axis=0) - scores[:count].mean(axis=0), groups)
    name = name_score(predictions[0].scored)
    return scores.mean(axis=1).tolist(), name, margin, f"covered: other seeds and samples ({size})"


def _require_same_split(words: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse metrics of other samples: predictions, which name their samples, are not compared."""
    files = [row.paths[0] / "meta.json" for row in rows]
    hashes = {read_json(file).get("split_hash") for file in files if file.exists()} - {None}
    if len(hashes) > 1:
        keys = find_differing_keys([row.config for row in rows])
        causes = [key for key in keys if key.startswith("data.")] or ["the samples"]
        problem = f"not of the same splits ({join_names(causes)} differ)"
        raise InputError(f"--seeds {' '.join(words)}: {problem}; train both on the same splits")


def _format_wins(a: Scores, b: Scores, found: Difference) -> list[str]:
    """How many seeds the leader leads, and Wilson's interval; nothing without pairs or leader."""
    if a.keys() != b.keys() or not found.gain:
        return []
    leader, lead = "A" if found.gain < 0 else "B", fmean(b.values()) - fmean(a.values())
    wins = sum((b[seed] - a[seed]) * lead > 0 for seed in a)
    share = binomtest(wins, len(a)).proportion_ci(method="wilson")
    interval = f"95 % confidence interval {100 * share.low:.0f} to {100 * share.high:.0f} %"
    return [f"{leader} leads with {wins} of {len(a)} seeds ({interval})"]
