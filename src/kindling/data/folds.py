"""Folds of a cross-validation: the held-out fold is the test split."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from src.kindling.config.errors import InputError
from src.kindling.data.samples import STAGES, Samples
from src.kindling.data.split import Indices, class_counts, cut_samples, strata

FOLD_RESULT = "test/… is measured on the held-out fold, with the best epoch on a validation split"


def fold_samples(
    samples: Samples, indices: Indices, fold: tuple[int, int, int], seed: int
) -> Indices:
    """Split training and validation again: one fold is the test split, the others train.

    Validation, which chooses the epoch, is cut from the other folds, by the rules of the ordinary
    split `indices` and with its share. The ordinary test split is left out.

    Folds are stratified by class or labels, or of whole groups, or chronological: older moments
    train for a fold, and the oldest are in no fold. `fold` is as in `DataModule`.
    """
    pool = np.sort(np.concatenate([indices["train"], indices["val"]]))
    rest, test = _hold_out(samples, pool, fold, seed + fold[2])
    count = max(1, round(len(rest) * len(indices["val"]) / len(pool)))
    if samples.target_type == "class":
        count = max(count, len(np.unique(samples.y[rest])))  # one of each class
    problem = "data.fold: cutting validation from the other folds"
    train, val = cut_samples(samples, rest, count, 1, seed + fold[2], problem)
    parts = {"train": train, "val": val, "test": test}
    return {stage: torch.from_numpy(np.sort(parts[stage])) for stage in STAGES}


def _hold_out(
    samples: Samples, pool: Any, fold: tuple[int, int, int], seed: int
) -> tuple[Any, Any]:
    """Split sample numbers `(N,)` into those outside the fold, the oldest first, and the fold."""
    from sklearn import model_selection as sk

    number, folds, repeat = fold  # each repetition has other folds
    if not (folds >= 2 and 0 <= number < folds and repeat >= 0):
        expected = "a fold's number from 0, at least 2 folds, and a repetition from 0"
        raise InputError(f"data.fold: expected {expected}, got {list(fold)}")
    y, groups, units = strata(samples, pool), None, np.arange(len(pool))
    most, unit = len(pool), "samples outside the test set"
    options = {"n_splits": folds, "shuffle": True, "random_state": seed}
    splitter: Any
    if samples.time is not None:
        if repeat:
            problem = "chronological folds are the same in every repetition"
            raise InputError(f"data.fold: {problem}; set one repetition")
        pool = pool[np.argsort(samples.time.numpy()[pool], kind="stable")]
        moments, units = np.unique(samples.time.numpy()[pool], return_inverse=True)
        splitter, y, most = sk.TimeSeriesSplit(folds), None, len(moments) - 2
        unit = "moments outside the test set, without the two oldest"
    elif samples.groups is not None:
        groups = samples.groups.numpy()[pool]
        splitter = sk.GroupKFold(**options) if y is None else sk.StratifiedGroupKFold(**options)
        most, unit = len(np.unique(groups)), "groups outside the test set"
    elif samples.target_type == "class":
        splitter, counts = sk.StratifiedKFold(**options), class_counts(samples, pool)
        most, name = min((count, name) for name, count in counts.items() if count)
        unit = f"samples of class '{name}' outside the test set, the smallest class"
    elif y is None or np.unique(y, return_counts=True)[1].min() < folds:
        splitter = sk.KFold(**options)
    else:
        splitter = sk.StratifiedKFold(**options)
    if folds > most:
        raise InputError(f"data.fold: {folds} folds need as many {unit}; there are {most}")
    with warnings.catch_warnings(action="ignore"):  # of rare classes in few groups
        sides = list(splitter.split(np.unique(units), y, groups))[number]
    rest, test = (pool[np.isin(units, side)] for side in sides)
    return rest, test
