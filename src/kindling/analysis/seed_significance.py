"""Test whether two configs differ, each trained with several seeds.

Source: Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from src.kindling.analysis.leaderboard import (
    DATA_KEYS,
    FOLD,
    Row,
    average_repeats,
    find,
    find_differing_keys,
    mode_of,
    read,
)
from src.kindling.analysis.significance import (
    Difference,
    Variance,
    add_variances,
    name_score,
    read_scores,
    t_test,
    variance_of_mean,
)
from src.kindling.config.errors import InputError, join_names
from src.kindling.runs.metric_names import canonical_name, mode_by_name, parse_name

MEASURED = {"data.split", "data.split_seed", FOLD, *DATA_KEYS}  # what a metric is of
Scores = dict[Any, float]  # by seed


@dataclass(frozen=True)
class SeedComparison:
    """The scores of two configs, and their difference.

    Attributes:
        wins: with how many seeds the second config is better; None if the seeds are not the same.
        missing: why the variance between test samples is left out; empty if it is included.
    """

    metric: str
    a: Scores
    b: Scores
    difference: Difference
    wins: int | None
    missing: str = ""

    def format(self, labels: Sequence[str]) -> list[str]:
        """The result in lines; `labels` of the two configs."""
        from scipy.stats import binomtest

        lines = []
        for label, scores in zip(labels, (self.a, self.b), strict=True):
            spread = f"{fmean(scores.values()):.4f} ± {stdev(scores.values()):.4f}"
            lines.append(f"{label}: {self.metric} {spread}")
        lines.append(str(self.difference))
        if self.wins is not None:
            share = binomtest(self.wins, len(self.a)).proportion_ci(method="wilson")
            counts = f"{self.difference.names[1]} is better with {self.wins} of {len(self.a)} seeds"
            interval = f"{100 * share.low:.0f} to {100 * share.high:.0f} %"
            lines.append(f"{counts} (95 % confidence interval {interval})")
        return [*lines, f"not covered: {self.missing}"] if self.missing else lines


def compare_seeds(
    a: Scores,
    b: Scores,
    metric: str,
    mode: str | None,
    names: tuple[str, str] = ("A", "B"),
    samples: tuple[Variance, str] | None = None,
    missing: str = "",
) -> SeedComparison:
    """Compare scores: paired where the seeds are the same, else by Welch's test.

    Args:
        mode: `min` where lower is better.
        samples: the variance of the mean gain between test samples, added to that between seeds,
            and its count in words.
    """
    is_paired, sign = a.keys() == b.keys(), -1 if mode == "min" else 1
    gains = [sign * (b[seed] - a[seed]) for seed in a] if is_paired else []
    parts = [gains] if is_paired else [list(a.values()), list(b.values())]
    seeds = add_variances([variance for part in parts if (variance := variance_of_mean(part))])
    count = f"{len(a)} paired" if is_paired else f"{len(a)} and {len(b)}"
    test = f"{'' if is_paired else 'Welch '}t-test over {count} seeds"
    test += f" and {samples[1]}" if samples else ""
    gain = sign * (fmean(b.values()) - fmean(a.values()))
    low, high, p = t_test(gain, [seeds, samples[0]] if samples else [seeds])
    difference = Difference(gain, low, high, metric, p, test, names=names)
    wins = sum(gain > 0 for gain in gains) if is_paired else None
    return SeedComparison(metric, a, b, difference, wins, missing)


def compare_seed_rows(one: Row, other: Row, metric: str | None = None) -> SeedComparison:
    """Compare two rows of several seeds.

    Args:
        metric: default: the score of the test samples, whose own variance then counts too; if not
            all runs have predictions of the same samples, the monitored metric, of the test split
            if it was measured.

    Raises:
        InputError: when the rows cannot be compared.
    """
    pair, missing = f"{one.name} and {other.name}", "other test samples"
    if differing := MEASURED & {*find_differing_keys([one.config, other.config])}:
        raise InputError(f"{pair}: not of the same data ({join_names(sorted(differing))} differ)")
    if metric is None:
        try:
            return _compare_predictions(one, other)
        except InputError as error:
            missing += f" ({error.lines[0]})"
    tested = f"test/{parse_name(one.monitor)[1]}"
    metric = canonical_name(metric or (tested if tested in one.numbers else one.monitor))
    if None in (one.numbers.get(metric), other.numbers.get(metric)):
        raise InputError(f"{pair}: not all runs have a finite {metric}; pass --sort METRIC")
    a, b = (_scores(row, metric) for row in (one, other))
    return compare_seeds(a, b, metric, mode_of([one], metric), missing=missing)


def _compare_predictions(one: Row, other: Row) -> SeedComparison:
    """Compare the scores of the same test samples; raise InputError if some are missing."""
    import numpy as np

    runs = [read(path) for row in (one, other) for path in row.paths]
    found, count = read_scores(runs), len(one.paths)
    scores = np.stack([predictions["score"].astype(float) for predictions in found])
    groups = found[0].columns.get("group")
    variance = variance_of_mean(scores[count:].mean(axis=0) - scores[:count].mean(axis=0), groups)
    if variance is None:
        raise InputError(f"{one.name} and {other.name}: too few samples, or one without a score")
    counted = f"{variance.freedom + 1:,.0f} {'test samples' if groups is None else 'groups'}"
    means = [(run.config["seed"], float(row.mean())) for run, row in zip(runs, scores, strict=True)]
    scored = found[0].scored
    a, b = dict(means[:count]), dict(means[count:])
    mode, samples = mode_by_name(scored), (variance, counted)
    return compare_seeds(a, b, name_score(scored), mode, samples=samples)


def _scores(row: Row, metric: str) -> Scores:
    runs = [read(path) for path in row.paths]
    return {run.config["seed"]: run.numbers[metric] or 0.0 for run in runs}


def format_seed_comparison(words: Sequence[str], metric: str | None) -> list[str]:
    """Compare two sets of seeds, each a study, a folder or a pattern, and say so in lines.

    Raises:
        InputError: when a word is not a set of two or more seeds of one config.
    """
    a, b = (_read_set(word) for word in words)
    return compare_seed_rows(a, b, metric).format([f"A = {a.name}", f"B = {b.name}"])


def _read_set(word: str) -> Row:
    runs = [run for path in find(word) if (run := read(path)).state == "finished"]
    if not runs:
        raise InputError(f"--seeds {word}: no finished runs")
    row, *others = average_repeats(runs)
    if others:
        keys = find_differing_keys([run.config for run in (row, *others)])
        keys = [key for key in keys if key != "seed"]
        problem = f"not of one config ({join_names(keys)} differ)" if keys else "several studies"
        raise InputError(f"--seeds {word}: {problem}; name a study, or runs that differ in seed")
    if row.config.get(FOLD):
        raise InputError(f"--seeds {word}: holds folds; name runs that differ in seed only")
    if len(row.paths) < 2:
        problem = "one seed, and the variance between seeds needs two"
        raise InputError(f"--seeds {word}: {problem}; train with --seeds 0,1,2")
    return row
