"""Which sample lies in which split, and whether the splits are what they should be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import STAGES, Samples, Stage, take

Indices = dict[Stage, Tensor]
# Samples with the same labels are dealt out evenly where there are at least so many of them.
ALIKE = 10


def split_samples(samples: Samples, split: Sequence[float], seed: int) -> Indices:
    """Deal the samples out to training, validation and test.

    Official splits are kept. What is left is stratified by class or labels; or goes by group, so that none lies on both sides;
    or by time, the oldest to training.

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
        if samples.groups is None and count < len(free):  # of the oldest, training takes the newest
            free = free[len(free) - count :] if samples.time is not None else _some(samples, free, count, seed)
        indices[missing[0]] = torch.from_numpy(np.sort(free))
    for stage in STAGES:
        if stage != "test" and len(indices[stage]) == 0:
            name = {"train": "training", "val": "validation"}[stage]
            raise InputError(f"data.split: {list(split)} leaves no {name} samples out of {total:,}")
    return {stage: indices[stage] for stage in STAGES}


def fold_samples(samples: Samples, indices: Indices, fold: tuple[int, int, int], seed: int) -> Indices:
    """Part training and validation anew: one fold for validation, the others for training; the test set stays.

    Stratified by class or labels; by group, so that none lies on both sides; or by time: a fold is then trained on what is
    older than it alone, and the oldest samples are in no fold.

    Args:
        samples: the source.
        indices: of the ordinary split.
        fold: the fold's number from 0, how many there are, and which repetition, each with folds of its own.
        seed: which folds.

    Raises:
        InputError: when there cannot be so many folds.
    """
    from sklearn import model_selection as sk

    number, folds, repeat = fold
    pool = torch.cat([indices["train"], indices["val"]]).sort().values.numpy()
    if not (folds >= 2 and 0 <= number < folds and repeat >= 0):
        raise InputError(f"data.fold: expected a fold's number from 0, at least 2 folds, and a repetition from 0, "
                         f"got {list(fold)}")  # fmt: skip
    options = {"shuffle": True, "random_state": seed + repeat}
    y = strata(samples, pool)
    groups = None if samples.groups is None else samples.groups.numpy()[pool]
    most, of = len(pool), "samples outside the test set"
    if samples.time is not None:
        if repeat:
            raise InputError("data.fold: folds by time are the same in every repetition; one is all there is")
        pool, y, groups = pool[np.argsort(samples.time.numpy()[pool], kind="stable")], None, None
        splitter, most = sk.TimeSeriesSplit(folds), len(pool) - 1
    elif groups is not None:
        splitter = sk.GroupKFold(folds, **options) if y is None else sk.StratifiedGroupKFold(folds, **options)
        most, of = len(np.unique(groups)), "groups outside the test set"
    elif samples.predicts == "class":
        splitter = sk.StratifiedKFold(folds, **options)
        counts = [(count, name) for name, count in _class_counts(samples, torch.from_numpy(pool)) if count]
        most, of = min(counts)[0], f"samples of class '{min(counts)[1]}' outside the test set, the smallest class"
    elif y is not None and np.unique(y, return_counts=True)[1].min() >= folds:
        splitter = sk.StratifiedKFold(folds, **options)
    else:
        splitter = sk.KFold(folds, **options)
    if folds > most:
        raise InputError(f"data.fold: {folds} folds need as many {of}; there are {most}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples of a class in some group: the folds are the best there are
        train, val = list(splitter.split(pool, y, groups))[number]
    train, val = (torch.from_numpy(np.sort(pool[part])) for part in (train, val))
    return {"train": train, "val": val, "test": indices["test"]}


def _cut(samples: Samples, free: Any, count: int, seed: int, problem: str) -> tuple[Any, Any]:
    """The free samples parted in those that stay and those that are cut off."""
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
        if samples.predicts == "labels" and len(np.unique(stratify)) > min(count, len(free) - count):
            stratify = None
        stay, cut = train_test_split(free, test_size=count, random_state=seed, stratify=stratify)
        return stay, cut
    except ValueError as error:
        if samples.predicts == "class":
            few = [f"{name} ({n})" for name, n in _class_counts(samples, torch.from_numpy(free)) if 0 < n < 3]
            if few:
                raise InputError(f"{problem} needs 3 samples of each class, one for each split; fewer have: "
                                 f"{counted(few)}; add samples or remove the class") from None  # fmt: skip
        raise InputError(f"{problem} does not fit {len(free):,} samples: {error}") from None


def strata(samples: Samples, index: Any) -> Any:
    """For some samples `(n,)`, numbers `(n,)` of what every split should have its share of: the class, or all labels.

    Labels that rarely occur together are one stratum. None where there is nothing to stratify by: values, masks.
    """
    y = samples.y
    if samples.predicts == "class":
        assert isinstance(y, Tensor)
        return y.numpy()[index]
    if samples.predicts != "labels":
        return None
    assert isinstance(y, Tensor)
    _, alike, counts = np.unique(y.numpy()[index], axis=0, return_inverse=True, return_counts=True)
    rare = counts < ALIKE
    alike = np.where(rare[alike], len(counts), alike)
    if counts[rare].sum() < ALIKE:
        alike[alike == len(counts)] = counts.argmax()
    return alike


def _some(samples: Samples, free: Any, count: int, seed: int) -> Any:
    """So many of the free samples, of each class its share; a smaller count takes some of what a larger one takes."""
    order = np.random.default_rng(seed).permutation(free)
    if samples.predicts == "class":
        assert isinstance(samples.y, Tensor)
        y = samples.y.numpy()[order]
        place = np.empty(len(order))  # of each sample among those of its class, from 0 to 1
        for number in np.unique(y):
            of_class = np.flatnonzero(y == number)
            place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
        order = order[np.argsort(place, kind="stable")]
    return order[:count]


def _whole_groups(groups: Any, count: int, seed: int, problem: str) -> Any:
    """Which samples to cut off, `(N,)` bool: groups in random order, each that still fits into the count."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise InputError(f"{problem} needs a group for each split, and there are too few; split without groups, or "
                         f"add some")  # fmt: skip
    taken = np.zeros(len(sizes), dtype=bool)
    left = count
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[number] <= left:
            taken[number] = True
            left -= sizes[number]
    if not taken.any():
        taken[sizes.argmin()] = True  # more than was asked for, and better than nothing
    if taken.all():
        taken[sizes.argmax()] = False
    return taken[group]


def _counts(split: Sequence[float], stages: Sequence[Stage], total: int) -> dict[Stage, int]:
    shares = {stage: split[STAGES.index(stage)] for stage in stages}
    problem = f"data.split: {list(split)}"
    if any(share < 0 for share in shares.values()) or sum(shares.values()) <= 0:
        raise InputError(f"{problem}: expected three shares such as [0.7, 0.15, 0.15], or three counts, none negative")
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
        raise InputError(f"{problem}: asks for {sum(counts.values())} samples, and the source has {total}")
    return counts


def _class_counts(samples: Samples, index: Tensor) -> list[tuple[str, int]]:
    y = samples.y[index]
    counts = (y.sum(dim=0) if y.ndim == 2 else torch.bincount(y, minlength=len(samples.classes))).tolist()
    return list(zip(samples.classes, counts, strict=True))


def check_classes(samples: Samples, indices: Indices) -> None:
    """Refuse classes that training cannot learn.

    Raises:
        InputError: when there is one class only, or when training lacks a class that validation or test has.
    """
    if samples.predicts not in ("class", "labels"):
        return
    if samples.predicts == "class" and len(samples.classes) < 2:
        raise InputError(f"data: all samples are of one class, '{samples.classes[0]}'; at least two are needed")
    trained = dict(_class_counts(samples, indices["train"]))
    for stage in ("val", "test"):
        lacking = [name for name, count in _class_counts(samples, indices[stage]) if count and not trained[name]]
        if lacking:
            raise InputError(f"data: classes in {stage} that training has no sample of: {counted(lacking)}; "
                             f"add training samples, or remove them from {stage}")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# Duplicates


def find_duplicates(samples: Samples, indices: Indices, then: str, notes: list[str]) -> None:
    """Look for identical samples in different splits; note them, drop them from training, or refuse them.

    Raises:
        InputError: when there are some and `then` is `error`.
    """
    if then == "ignore":
        return
    # In whole columns of numbers, none longer than needed: a table may have millions of rows, and as many twins.
    keys = content_keys(samples)
    split_of = np.full(len(keys), -1, dtype=np.int8)
    for place, stage in enumerate(STAGES):
        split_of[indices[stage].numpy()] = place
    order = np.argsort(keys, kind="stable")
    order = order[split_of[order] >= 0]
    keys = keys[order]
    new = np.ones(len(order), dtype=bool)  # where a sample's content is not that of the one before it
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    del keys
    if new.all():
        return
    starts = np.flatnonzero(new)
    lowest = np.minimum.reduceat(split_of[order], starts)
    twins = np.cumsum(new) - 1  # the number of each sample's group of twins
    leaking = split_of[order] != lowest[twins]
    if not leaking.any():
        return
    places = np.flatnonzero(leaking)
    leaks = []  # (a sample, its twin in a later split)
    for place in places[np.argsort(order[places], kind="stable")][:3]:
        group = twins[place]
        end = starts[group + 1] if group + 1 < len(starts) else len(order)
        members = order[starts[group] : end]
        leaks.append((int(members[split_of[members] == lowest[group]][0]), int(order[place])))
    mixed = np.zeros(len(starts), dtype=bool)
    mixed[twins[places]] = True
    in_training = order[mixed[twins] & (split_of[order] == 0)]

    def where(i: int) -> str:
        return f"{samples.name(i)} ({STAGES[split_of[i]]})"

    examples = "; ".join(f"{where(one)} = {where(other)}" for one, other in leaks[:3])
    text = f"{len(places):,} samples stand identical in another split: {examples}"
    if then == "error":
        raise InputError(f"data: {text}; data.duplicates=drop removes them from training")
    if then == "drop" and len(in_training):
        keep = torch.ones(len(split_of), dtype=torch.bool)
        keep[torch.from_numpy(in_training)] = False
        indices["train"] = indices["train"][keep[indices["train"]]]
        notes.append(f"duplicates: {text}; {len(in_training):,} dropped from training")
    else:
        notes.append(f"duplicates: {text}; data.duplicates=drop removes them from training")


def content_keys(samples: Samples) -> Any:
    """A 64-bit key of each sample's content, `(N,)`; equal content has equal keys.

    Sources that lie in files say their keys themselves (`content_keys`).
    """
    own = getattr(samples.x, "content_keys", None)
    if own is not None:
        return own()
    weights: Any = None
    keys = np.empty(len(samples.x), dtype=np.uint64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sums wrap around, as is meant
        chunk = max(1, (1 << 18) // max(1, samples.x[:1].nbytes))
        for start in range(0, len(keys), chunk):
            index = torch.arange(start, min(start + chunk, len(keys)))
            content = take(samples.x, index).flatten(1)
            if samples.columns:  # rows of a table often agree by chance; a twin has the same target, too
                content = torch.cat([content, samples.y[index].to(content.dtype).reshape(len(content), -1)], dim=1)
            rows = content.contiguous().numpy().view(np.uint8)
            rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)
            if weights is None:
                weights = np.random.default_rng(0).integers(0, 2**64, rows.shape[1], dtype=np.uint64) | np.uint64(1)
            mixed = rows ^ (rows >> np.uint64(31))
            keys[start : start + len(rows)] = (mixed * weights).sum(axis=1, dtype=np.uint64)
    return keys
