"""Splits and folds of the samples, and checks of their classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.samples import STAGES, Samples, Stage

Indices = dict[Stage, Tensor]
# A combination of labels is a stratum if it has at least this many samples.
MIN_STRATUM = 10


def split_samples(samples: Samples, split: Sequence[float], seed: int) -> Indices:
    """Split the samples into training, validation and test.

    Official splits are kept. The other samples are stratified by class or labels, or split by whole
    groups, or chronologically, the oldest for training.

    Raises:
        InputError: when the shares or counts cannot be had from these samples.
    """
    problem = f"data.split: {list(split)}"
    indices = dict(samples.official)
    missing = [stage for stage in STAGES if stage not in indices]
    if samples.time is not None and not missing:
        raise InputError("data.time: all splits are given, and none is left to time; remove it")
    free = np.setdiff1d(np.arange(len(samples.y)), np.concatenate([[], *indices.values()]))
    counts = _counts(split, missing, len(free), problem) if missing else {}
    if samples.time is not None:
        free = free[np.argsort(samples.time.numpy()[free], kind="stable")]
    # The last stage is cut off first, so that a longer training set leaves the test set as it is.
    for stage in reversed(missing[1:]):
        free, cut = _cut(samples, free, counts[stage], seed, problem)
        indices[stage] = torch.from_numpy(np.sort(cut))
    for stage in missing[:1]:
        if samples.time is not None:
            free = free[len(free) - counts[stage] :]  # of the oldest, training takes the newest
        elif samples.groups is None and counts[stage] < len(free):
            free = _pick(samples, free, counts[stage], seed)
        indices[stage] = torch.from_numpy(np.sort(free))
    _check_sizes(indices, len(samples.y), problem)
    if samples.groups is not None:
        _check_groups(samples, samples.groups, indices)
    return {stage: indices[stage] for stage in STAGES}


def _check_sizes(indices: Indices, total: int, problem: str) -> None:
    """Refuse a split without samples for training or validation."""
    names: dict[Stage, str] = {"train": "training", "val": "validation"}
    for stage, name in names.items():
        if len(indices[stage]) == 0:
            remedy = "add samples, at least one for each split"
            if total > 3:
                remedy = f"add samples, or set counts: data.split=[{total - 2},1,1]"
            raise InputError(f"{problem} leaves no {name} samples out of {total:,}; {remedy}")


def _check_groups(samples: Samples, groups: Tensor, indices: Indices) -> None:
    """Refuse official splits that divide a group."""
    for one, other in combinations(STAGES, 2):
        first, second = groups[indices[one]], groups[indices[other]]
        for group in first[torch.isin(first, second)][:1]:
            a, b = indices[one][first == group][0], indices[other][second == group][0]
            raise InputError(
                f"data.group_column: {samples.name(int(a))} ({one}) and {samples.name(int(b))} "
                f"({other}) are of one group; correct the given splits, or remove it"
            )


def fold_samples(
    samples: Samples, indices: Indices, fold: tuple[int, int, int], seed: int
) -> Indices:
    """Split training and validation again: one fold validates, the others train; test stays.

    Folds are stratified by class or labels, or of whole groups, or chronological: older samples
    train for a fold, and the oldest are in no fold.

    Args:
        samples: the source.
        indices: of the ordinary split.
        fold: the fold's number, the number of folds, and the repetition, each with other folds.
        seed: of the folds.

    Raises:
        InputError: when there cannot be so many folds.
    """
    from sklearn import model_selection as sk

    number, folds, repeat = fold
    if not (folds >= 2 and 0 <= number < folds and repeat >= 0):
        expected = "a fold's number from 0, at least 2 folds, and a repetition from 0"
        raise InputError(f"data.fold: expected {expected}, got {list(fold)}")
    pool = np.sort(np.concatenate([indices["train"], indices["val"]]))
    y, groups = strata(samples, pool), None
    most, unit = len(pool), "samples outside the test set"
    options = {"n_splits": folds, "shuffle": True, "random_state": seed + repeat}
    splitter: Any
    if samples.time is not None:
        if repeat:
            problem = "chronological folds are the same in every repetition"
            raise InputError(f"data.fold: {problem}; set one repetition")
        pool = pool[np.argsort(samples.time.numpy()[pool], kind="stable")]
        splitter, most = sk.TimeSeriesSplit(folds), most - 1
    elif samples.groups is not None:
        groups = samples.groups.numpy()[pool]
        splitter = sk.GroupKFold(**options) if y is None else sk.StratifiedGroupKFold(**options)
        most, unit = len(np.unique(groups)), "groups outside the test set"
    elif samples.target_type == "class":
        splitter, counts = sk.StratifiedKFold(**options), _class_counts(samples, pool)
        most, name = min((count, name) for name, count in counts.items() if count)
        unit = f"samples of class '{name}' outside the test set, the smallest class"
    elif y is None or np.unique(y, return_counts=True)[1].min() < folds:
        splitter = sk.KFold(**options)
    else:
        splitter = sk.StratifiedKFold(**options)
    if folds > most:
        raise InputError(f"data.fold: {folds} folds need as many {unit}; there are {most}")
    with warnings.catch_warnings(action="ignore"):  # of rare classes in few groups
        train, val = list(splitter.split(pool, y, groups))[number]
    train, val = (torch.from_numpy(np.sort(pool[part])) for part in (train, val))
    return indices | {"train": train, "val": val}


def _cut(samples: Samples, free: Any, count: int, seed: int, problem: str) -> tuple[Any, Any]:
    """Split the free samples into remaining ones and `count` others."""
    if count == 0 or samples.time is not None:
        return free[: len(free) - count], free[len(free) - count :]
    if samples.groups is not None:
        cut = _whole_groups(samples.groups.numpy()[free], count, seed, problem)
        return free[~cut], free[cut]
    from sklearn.model_selection import train_test_split

    y = strata(samples, free)
    if samples.target_type == "labels" and len(np.unique(y)) > min(count, len(free) - count):
        y = None
    try:
        stay, cut = train_test_split(free, test_size=count, random_state=seed, stratify=y)
    except ValueError as error:
        counts = _class_counts(samples, free) if samples.target_type == "class" else {}
        if few := [f"{name} ({count})" for name, count in counts.items() if 0 < count < 3]:
            need = (
                f"needs 3 samples of each class, one for each split; fewer have: {join_names(few)}"
            )
            raise InputError(f"{problem} {need}; add samples or remove the class") from None
        raise InputError(f"{problem} does not fit {len(free):,} samples: {error}") from None
    return stay, cut


def strata(samples: Samples, index: Any) -> Any:
    """Return the strata `(n,)` of some samples `(n,)`: their classes, or combinations of labels.

    Rare combinations of labels form one stratum. Values and masks have none.
    """
    if samples.target_type not in ("class", "labels"):
        return None
    y = samples.y[index].numpy()
    if samples.target_type == "class":
        return y
    _, stratum, counts = np.unique(y, axis=0, return_inverse=True, return_counts=True)
    rare = counts < MIN_STRATUM
    rest = len(counts) if counts[rare].sum() >= MIN_STRATUM else counts.argmax()
    return np.where(rare[stratum], rest, stratum)


def _pick(samples: Samples, free: Any, count: int, seed: int) -> Any:
    """Pick free samples, stratified by class; a smaller count gives a subset of a larger one."""
    order = np.random.default_rng(seed).permutation(free)
    if samples.target_type == "class":
        y = strata(samples, order)
        place = np.empty(len(order))  # of each sample among those of its class, from 0 to 1
        for number in np.unique(y):
            members = np.flatnonzero(y == number)
            place[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = order[np.argsort(place, kind="stable")]
    return order[:count]


def _whole_groups(groups: Any, count: int, seed: int, problem: str) -> Any:
    """Select samples, `(N,)` bool: groups in random order, if they still fit into the count.

    scikit-learn's GroupShuffleSplit counts groups: one large group would be half of the samples.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        problem += " needs a group for each split, and there are too few"
        raise InputError(f"{problem}; split without groups, or add some")
    taken = np.zeros(len(sizes), dtype=bool)
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        taken[number] = sizes[number] <= count
        count -= sizes[number] * taken[number]
    if not taken.any():
        taken[sizes.argmin()] = True  # more than requested, but not empty
    if taken.all():
        taken[sizes.argmax()] = False
    return taken[group]


def _counts(
    split: Sequence[float], stages: Sequence[Stage], total: int, problem: str
) -> dict[Stage, int]:
    shares = {stage: split[STAGES.index(stage)] for stage in stages}
    whole = sum(shares.values())
    if min(shares.values()) < 0 or whole <= 0:
        expected = "three shares such as [0.7, 0.15, 0.15], or three counts, none negative"
        raise InputError(f"{problem}: expected {expected}")
    if max(split) <= 1:
        if len(stages) == len(STAGES) and abs(whole - 1) > 1e-6:
            raise InputError(f"{problem}: the shares add up to {whole:g}, not to 1")
        counts = {stage: round(total * share / whole) for stage, share in shares.items()}
        counts[stages[0]] += total - sum(counts.values())
        return counts
    if any(share != int(share) for share in shares.values()):
        raise InputError(f"{problem}: shares and counts are mixed; give three of one kind")
    if whole > total:
        raise InputError(f"{problem}: asks for {int(whole)} samples, and the source has {total}")
    return {stage: int(share) for stage, share in shares.items()}


def _class_counts(samples: Samples, index: Any) -> dict[str, int]:
    y = samples.y[index]
    counts = y.sum(dim=0) if y.ndim == 2 else y.bincount(minlength=len(samples.classes))
    return dict(zip(samples.classes, counts.tolist(), strict=True))


def describe_classes(samples: Samples) -> str:
    """`classes: ants (189), bees (208)`, at most ten."""
    counts = _class_counts(samples, slice(None))
    named = [f"{name} ({count:,})" for name, count in counts.items()]
    return f"classes: {join_names(named, most=10)}"


def check_classes(samples: Samples, indices: Indices) -> None:
    """Refuse classes that training cannot learn.

    Raises:
        InputError: with one class only, or when training lacks a class of validation or test.
    """
    if samples.target_type not in ("class", "labels"):
        return
    if samples.target_type == "class" and len(samples.classes) < 2:
        problem = f"all samples are of one class, '{samples.classes[0]}'"
        raise InputError(f"data: {problem}; at least two are needed")
    trained = _class_counts(samples, indices["train"])
    for stage in ("val", "test"):
        counts = _class_counts(samples, indices[stage])
        lacking = [name for name, count in counts.items() if count and not trained[name]]
        if lacking:
            problem = f"classes in {stage} that training has no sample of: {join_names(lacking)}"
            raise InputError(f"data: {problem}; add training samples, or remove them from {stage}")
