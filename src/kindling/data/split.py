"""Splits and folds of the samples, and checks of their classes."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.samples import STAGES, Samples, Stage

Indices = dict[Stage, Tensor]
# A combination of labels is a stratum if it has at least this many samples.
ALIKE = 10


def split_samples(samples: Samples, split: Sequence[float], seed: int) -> Indices:
    """Split the samples into training, validation and test.

    Official splits are kept. The other samples are stratified by class or labels; or split by
    group, so that a group is in one split only; or chronologically, the oldest for training.

    Raises:
        InputError: when the shares or counts cannot be had from these samples.
    """
    total = len(samples.y)
    indices = dict(samples.official)
    taken = torch.zeros(total, dtype=torch.bool)
    for index in indices.values():
        taken[index] = True
    free = torch.nonzero(~taken).flatten().numpy()
    missing = [stage for stage in STAGES if stage not in indices]
    counts = _counts(split, missing, len(free)) if missing else {}
    if samples.time is not None:
        free = free[np.argsort(samples.time.numpy()[free], kind="stable")]
    # The last stage is cut off first, so that a longer training set leaves the test set as it is.
    for stage in reversed(missing[1:]):
        free, cut = _cut(samples, free, counts[stage], seed, f"data.split: {list(split)}")
        indices[stage] = torch.from_numpy(np.sort(cut))
    if missing:
        count = counts[missing[0]]
        if samples.groups is None and count < len(free):
            newest = free[len(free) - count :]  # of the oldest, training takes the newest
            chronological = samples.time is not None
            free = newest if chronological else _pick(samples, free, count, seed)
        indices[missing[0]] = torch.from_numpy(np.sort(free))
    for stage in STAGES:
        if stage != "test" and len(indices[stage]) == 0:
            name = {"train": "training", "val": "validation"}[stage]
            raise InputError(f"data.split: {list(split)} leaves no {name} samples out of {total:,}")
    return {stage: indices[stage] for stage in STAGES}


def fold_samples(
    samples: Samples, indices: Indices, fold: tuple[int, int, int], seed: int
) -> Indices:
    """Split training and validation again: one fold validates, the others train; test stays.

    Folds are stratified by class or labels; or by group, so that a group is in one fold only; or
    chronological: older samples alone train for a fold, and the oldest are in no fold.

    Args:
        samples: the source.
        indices: of the ordinary split.
        fold: the fold's number from 0, the number of folds, and the repetition from 0, each
            with different folds.
        seed: seed of the folds.

    Raises:
        InputError: when there cannot be so many folds.
    """
    from sklearn import model_selection as sk

    number, folds, repeat = fold
    pool = torch.cat([indices["train"], indices["val"]]).sort().values.numpy()
    if not (folds >= 2 and 0 <= number < folds and repeat >= 0):
        raise InputError(
            "data.fold: expected a fold's number from 0, at least 2 folds, and a repetition "
            f"from 0, got {list(fold)}"
        )
    if samples.time is not None:
        if repeat:
            raise InputError(
                "data.fold: chronological folds are the same in every repetition; "
                "set one repetition"
            )
        pool = pool[np.argsort(samples.time.numpy()[pool], kind="stable")]
        splitter, most, unit = (
            sk.TimeSeriesSplit(folds),
            len(pool) - 1,
            "samples outside the test set",
        )
        y = groups = None
    else:
        y = strata(samples, pool)
        groups = None if samples.groups is None else samples.groups.numpy()[pool]
        splitter, most, unit = _random_splitter(samples, pool, y, groups, folds, seed + repeat)
    if folds > most:
        raise InputError(f"data.fold: {folds} folds need as many {unit}; there are {most}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rare classes in few groups: these folds are the best
        train, val = list(splitter.split(pool, y, groups))[number]
    train, val = (torch.from_numpy(np.sort(pool[part])) for part in (train, val))
    return {"train": train, "val": val, "test": indices["test"]}


def _random_splitter(
    samples: Samples, pool: Any, y: Any, groups: Any, folds: int, seed: int
) -> tuple[Any, int, str]:
    """Choose scikit-learn's splitter; also return the largest number of folds and its unit."""
    from sklearn import model_selection as sk

    options = {"shuffle": True, "random_state": seed}
    if groups is not None:
        by_group = sk.GroupKFold if y is None else sk.StratifiedGroupKFold
        return by_group(folds, **options), len(np.unique(groups)), "groups outside the test set"
    if samples.target_type == "class":
        counts = _class_counts(samples, torch.from_numpy(pool))
        most, name = min((count, name) for name, count in counts if count)
        unit = f"samples of class '{name}' outside the test set, the smallest class"
        return sk.StratifiedKFold(folds, **options), most, unit
    stratified = y is not None and np.unique(y, return_counts=True)[1].min() >= folds
    splitter = sk.StratifiedKFold if stratified else sk.KFold
    return splitter(folds, **options), len(pool), "samples outside the test set"


def _cut(samples: Samples, free: Any, count: int, seed: int, problem: str) -> tuple[Any, Any]:
    """Split the free samples into remaining ones and `count` others."""
    if count == 0:
        return free, free[:0]
    if samples.time is not None:
        return free[:-count], free[-count:]
    if samples.groups is not None:
        cut = _whole_groups(samples.groups.numpy()[free], count, seed, problem)
        return free[~cut], free[cut]
    from sklearn.model_selection import train_test_split

    try:
        stratify = strata(samples, free)
        smaller = min(count, len(free) - count)
        if samples.target_type == "labels" and len(np.unique(stratify)) > smaller:
            stratify = None
        stay, cut = train_test_split(free, test_size=count, random_state=seed, stratify=stratify)
        return stay, cut
    except ValueError as error:
        if samples.target_type == "class":
            counts = _class_counts(samples, torch.from_numpy(free))
            few = [f"{name} ({count})" for name, count in counts if 0 < count < 3]
            if few:
                raise InputError(
                    f"{problem} needs 3 samples of each class, one for each split; fewer have: "
                    f"{join_names(few)}; add samples or remove the class"
                ) from None
        raise InputError(f"{problem} does not fit {len(free):,} samples: {error}") from None


def strata(samples: Samples, index: Any) -> Any:
    """Return the strata `(n,)` of some samples `(n,)`: their classes, or combinations of labels.

    Rare combinations of labels form one stratum. Values and masks have none.
    """
    y = samples.y
    if samples.target_type == "class":
        assert isinstance(y, Tensor)
        return y.numpy()[index]
    if samples.target_type != "labels":
        return None
    assert isinstance(y, Tensor)
    _, alike, counts = np.unique(y.numpy()[index], axis=0, return_inverse=True, return_counts=True)
    rare = counts < ALIKE
    alike = np.where(rare[alike], len(counts), alike)
    if counts[rare].sum() < ALIKE:
        alike[alike == len(counts)] = counts.argmax()
    return alike


def _pick(samples: Samples, free: Any, count: int, seed: int) -> Any:
    """Pick free samples, stratified by class; a smaller count gives a subset of a larger one."""
    order = np.random.default_rng(seed).permutation(free)
    if samples.target_type == "class":
        assert isinstance(samples.y, Tensor)
        y = samples.y.numpy()[order]
        place = np.empty(len(order))  # of each sample among those of its class, from 0 to 1
        for number in np.unique(y):
            of_class = np.flatnonzero(y == number)
            place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
        order = order[np.argsort(place, kind="stable")]
    return order[:count]


def _whole_groups(groups: Any, count: int, seed: int, problem: str) -> Any:
    """Select samples, `(N,)` bool: groups in random order, if they still fit into the count."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise InputError(
            f"{problem} needs a group for each split, and there are too few; "
            "split without groups, or add some"
        )
    taken = np.zeros(len(sizes), dtype=bool)
    left = count
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[number] <= left:
            taken[number] = True
            left -= sizes[number]
    if not taken.any():
        taken[sizes.argmin()] = True  # more than requested, but not empty
    if taken.all():
        taken[sizes.argmax()] = False
    return taken[group]


def _counts(split: Sequence[float], stages: Sequence[Stage], total: int) -> dict[Stage, int]:
    shares = {stage: split[STAGES.index(stage)] for stage in stages}
    problem = f"data.split: {list(split)}"
    if any(share < 0 for share in shares.values()) or sum(shares.values()) <= 0:
        raise InputError(
            f"{problem}: expected three shares such as [0.7, 0.15, 0.15], or three counts, "
            "none negative"
        )
    if all(share <= 1 for share in split):
        if len(stages) == len(STAGES) and abs(sum(split) - 1) > 1e-6:
            raise InputError(f"{problem}: the shares add up to {sum(split):g}, not to 1")
        whole = sum(shares.values())
        counts = {stage: round(total * share / whole) for stage, share in shares.items()}
        counts[stages[0]] = total - sum(counts[stage] for stage in stages[1:])
        return counts
    if any(share != int(share) for share in shares.values()):
        raise InputError(f"{problem}: shares and counts are mixed; give three of one kind")
    counts = {stage: int(share) for stage, share in shares.items()}
    if sum(counts.values()) > total:
        raise InputError(
            f"{problem}: asks for {sum(counts.values())} samples, and the source has {total}"
        )
    return counts


def _class_counts(samples: Samples, index: Tensor) -> list[tuple[str, int]]:
    y = samples.y[index]
    counts = (
        y.sum(dim=0) if y.ndim == 2 else torch.bincount(y, minlength=len(samples.classes))
    ).tolist()
    return list(zip(samples.classes, counts, strict=True))


def check_classes(samples: Samples, indices: Indices) -> None:
    """Refuse classes that training cannot learn.

    Raises:
        InputError: with one class only, or when training lacks a class of validation or test.
    """
    if samples.target_type not in ("class", "labels"):
        return
    if samples.target_type == "class" and len(samples.classes) < 2:
        raise InputError(
            f"data: all samples are of one class, '{samples.classes[0]}'; at least two are needed"
        )
    trained = dict(_class_counts(samples, indices["train"]))
    for stage in ("val", "test"):
        counts = _class_counts(samples, indices[stage])
        lacking = [name for name, count in counts if count and not trained[name]]
        if lacking:
            raise InputError(
                f"data: classes in {stage} that training has no sample of: {join_names(lacking)}; "
                f"add training samples, or remove them from {stage}"
            )


def import_sklearn() -> None:
    """Import scikit-learn without pandas, which it needs for ARFF files only and which is slow."""
    if not {"pandas", "sklearn"} & sys.modules.keys():
        # An import of None fails, and scikit-learn handles that.
        sys.modules["pandas"] = None  # type: ignore[assignment]
        try:
            import sklearn.datasets
            import sklearn.model_selection  # noqa: F401
        finally:
            del sys.modules["pandas"]


def format_split(samples: Samples, indices: Indices) -> str:
    """Format the split as CSV: each sample's number, name and stage."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "name", "split"])
    for stage in STAGES:
        # A list of all indices would take more memory than a table.
        for chunk in torch.split(indices[stage], 4096):
            writer.writerows([i, samples.name(i), stage] for i in chunk.tolist())
    return text.getvalue()
