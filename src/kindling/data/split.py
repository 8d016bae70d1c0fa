"""Splits and folds of the samples, and checks of their classes."""

from __future__ import annotations

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
    unused = len(free) - sum(counts.values())
    if samples.time is not None:
        free = free[np.argsort(samples.time.numpy()[free], kind="stable")]
    # The last stage is cut off first, so that a longer training set leaves the test set as it is.
    for i, stage in reversed([*enumerate(missing)][1:]):
        left = sum(counts[other] > 0 for other in missing[:i])
        free, cut = cut_samples(samples, free, counts[stage], left, seed, problem)
        indices[stage] = torch.from_numpy(np.sort(cut))
    for stage in missing[:1]:
        if samples.time is not None:
            free = free[unused:]  # of the oldest, training takes the newest
        elif samples.groups is None and unused:
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
            counts = f"or set counts: data.split=[{total - 2},1,1]"
            remedy = f"add samples, {counts if total > 3 else 'at least one for each split'}"
            raise InputError(f"{problem} leaves no {name} samples out of {total:,}; {remedy}")


def _check_groups(samples: Samples, groups: Tensor, indices: Indices) -> None:
    """Refuse official splits that divide a group."""
    for one, other in combinations(STAGES, 2):
        first, second = groups[indices[one]], groups[indices[other]]
        for group in first[torch.isin(first, second)][:1]:
            a, b = indices[one][first == group][0], indices[other][second == group][0]
            pair = f"{samples.name(int(a))} ({one}) and {samples.name(int(b))} ({other})"
            remedy = "correct the given splits, or remove it"
            raise InputError(f"data.group_column: {pair} are of one group; {remedy}")


def cut_samples(
    samples: Samples, free: Any, count: int, left: int, seed: int, problem: str
) -> tuple[Any, Any]:
    """Split free samples, the oldest first, into those that stay and about `count` others.

    Each class is among both, and often enough among those that stay for `left` splits.
    """
    if count == 0:
        return free, free[:0]
    if samples.time is not None:
        boundary = _find_boundary(samples.time.numpy()[free], len(free) - count, left, problem)
        return free[:boundary], free[boundary:]
    y = strata(samples, free)
    if samples.groups is not None:
        cut = _whole_groups(samples.groups.numpy()[free], y, count, left, seed, problem)
        return free[~cut], free[cut]
    from sklearn.model_selection import train_test_split

    if samples.target_type == "labels" and len(np.unique(y)) > min(count, len(free) - count):
        y = None
    if samples.target_type == "class":
        _check_class_sizes(samples, free, count, left, problem)
    try:
        stay, cut = train_test_split(free, test_size=count, random_state=seed, stratify=y)
    except ValueError as error:
        raise InputError(f"{problem} does not fit {len(free):,} samples: {error}") from None
    if samples.target_type == "class":
        y = strata(samples, slice(None))
        for number in np.unique(y[free]):
            _exchange(y, number, cut, stay, 1)
            _exchange(y, number, stay, cut, left)
    return stay, cut


def _check_class_sizes(samples: Samples, free: Any, count: int, left: int, problem: str) -> None:
    """Refuse to cut `count` off where a class or a split has too few samples for one of each."""
    sizes = class_counts(samples, free)
    if few := [f"{name} ({size})" for name, size in sizes.items() if 0 < size <= left]:
        need = f"needs {left + 1} samples of each class, one for each split"
        remedy = "add samples or remove the class"
        raise InputError(f"{problem} {need}; fewer have: {join_names(few)}; {remedy}")
    classes, least = sum(size > 0 for size in sizes.values()), min(count, len(free) - count)
    if least < classes:
        found = f"leaves {least:,} of {len(free):,} samples to a split, and it needs one of each"
        remedy = f"add samples, or set counts of {classes:,} or more for each split"
        raise InputError(f"{problem} {found} of the {classes:,} classes; {remedy}")


def _exchange(y: Any, number: int, taker: Any, giver: Any, need: int) -> None:
    """Let `taker` have `need` samples of a class, in exchange for some of its largest class."""
    for _ in range(need - np.count_nonzero(y[taker] == number)):
        i = np.flatnonzero(y[taker] == np.bincount(y[taker]).argmax())[0]
        j = np.flatnonzero(y[giver] == number)[0]
        taker[i], giver[j] = giver[j], taker[i]


def _find_boundary(time: Any, wanted: int, left: int, problem: str) -> int:
    """The index nearest to `wanted` in sorted times `(N,)` that keeps equal times together."""
    boundaries = np.flatnonzero(np.diff(time))[max(left - 1, 0) :] + 1
    if not len(boundaries):
        need = f"needs {left + 1} moments of data.time, one for each split"
        raise InputError(f"{problem} {need}; there are {len(np.unique(time))}; remove data.time")
    return int(boundaries[np.abs(boundaries - wanted).argmin()])


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
        rank = np.empty(len(order))  # of each sample among those of its class, from 0 to 1
        for number in np.unique(y):
            members = np.flatnonzero(y == number)
            rank[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = order[np.argsort(rank, kind="stable")]
    return order[:count]


def _whole_groups(groups: Any, y: Any, count: int, left: int, seed: int, problem: str) -> Any:
    """Select samples, `(N,)` bool: whole groups of about `count` samples, stratified by `y`."""
    # scikit-learn's StratifiedGroupKFold makes equal folds; GroupShuffleSplit is not stratified.
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) <= max(left, 1):
        problem += " needs a group for each split, and there are too few"
        raise InputError(f"{problem}; split without groups, or add some")
    stratum = np.unique(np.zeros(len(groups)) if y is None else y, return_inverse=True)[1]
    table = np.zeros((len(sizes), stratum.max() + 1))
    np.add.at(table, (group, stratum), 1)
    table = np.column_stack([table, sizes])  # samples of each class, and of all, in each group
    staying, taken = (table > 0).sum(axis=0), np.zeros(len(sizes), dtype=bool)
    table /= table.sum(axis=0)
    smallest = np.where(table > 0, table, 1).min(axis=0)
    missing = np.maximum(count / len(groups), smallest)
    # Three times, each group is added or removed if that brings the shares of the classes closer
    # to the wanted one. `left` groups of each class stay, or as many as there are.
    for number in np.tile(np.random.default_rng(seed).permutation(len(sizes)), 3):
        change = -table[number] if taken[number] else table[number]
        closer = change @ (change - 2 * missing) < -1e-9  # a smaller sum of squares
        if closer and (taken[number] or (staying[change > 0] > left).all()):
            taken[number] = not taken[number]
            missing, staying = missing - change, staying - np.sign(change)
    if not taken.any():
        taken[sizes.argmin()] = True
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


def class_counts(samples: Samples, index: Any) -> dict[str, int]:
    y = samples.y[index]
    counts = y.sum(dim=0) if y.ndim == 2 else y.bincount(minlength=len(samples.classes))
    return dict(zip(samples.classes, counts.tolist(), strict=True))


def describe_classes(samples: Samples) -> str:
    """`classes: ants (189), bees (208)`, at most ten."""
    counts = class_counts(samples, slice(None)).items()
    return f"classes: {join_names([f'{name} ({count:,})' for name, count in counts], most=10)}"


def check_classes(samples: Samples, indices: Indices, notes: list[str]) -> None:
    """Refuse classes that training cannot learn, and note those that cannot be measured."""
    if samples.target_type not in ("class", "labels"):
        return
    if samples.target_type == "class" and len(samples.classes) < 2:
        problem = f"all samples are of one class, '{samples.classes[0]}'"
        raise InputError(f"data: {problem}; at least two are needed")
    trained = class_counts(samples, indices["train"])
    for stage in ("val", "test"):
        counts = class_counts(samples, indices[stage])
        lacking = [name for name, count in counts.items() if count and not trained[name]]
        if lacking:
            problem = f"classes in {stage} that training has no sample of: {join_names(lacking)}"
            raise InputError(f"data: {problem}; add training samples, or remove them from {stage}")
        absent = [name for name, count in trained.items() if count and not counts[name]]
        if absent and len(indices[stage]):
            notes.append(f"split: no sample in {stage} of {join_names(absent)}")
