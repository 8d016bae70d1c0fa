"""Splits keep groups and moments whole, and classes in each split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import GroupShuffleSplit

from src.kindling.config.errors import InputError
from src.kindling.data.folds import fold_samples
from src.kindling.data.samples import STAGES, Samples
from src.kindling.data.split import Indices, check_classes, split_samples

SPLIT = (0.7, 0.15, 0.15)


def made(y: Any, **options: Any) -> Samples:
    classes = tuple("abcdefgh"[: int(max(y)) + 1])
    options = {key: torch.as_tensor(value) for key, value in options.items()}
    return Samples(x=torch.rand(len(y), 2), y=torch.as_tensor(y), classes=classes, **options)


def class_shares(samples: Samples, indices: Indices) -> Any:
    """The share of each class in each split, `(3, K)`."""
    K = len(samples.classes)
    counts = [torch.bincount(samples.y[indices[stage]], minlength=K) for stage in STAGES]  # type: ignore[index]
    return np.array([(count / count.sum()).tolist() for count in counts])


def unequal_groups(seed: int) -> tuple[Any, Any]:
    """Classes and groups of 2 to 40 samples, most of them of mostly one class."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 40, 50)
    groups = np.repeat(np.arange(50), sizes)
    shares = np.repeat(draw.dirichlet([0.2, 0.2, 0.1], 50), sizes, axis=0)
    return (shares.cumsum(axis=1) < draw.random((len(groups), 1))).sum(axis=1).clip(0, 2), groups


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_one_moment_are_in_one_split(seed: int) -> None:
    draw = np.random.default_rng(seed)
    time = draw.permutation(np.repeat(np.arange(30.0), draw.integers(1, 30, 30)))
    samples = made(np.arange(len(time)) % 2, time=time)
    whole = split_samples(samples, SPLIT, seed)
    assert sum(map(len, whole.values())) == len(time)
    for stage, share in zip(STAGES, SPLIT, strict=True):
        assert len(whole[stage]) == pytest.approx(share * len(time), abs=30)
    for split in (whole, *(fold_samples(samples, whole, (k, 4, 0), seed) for k in range(4))):
        moments = [time[split[stage]] for stage in STAGES]
        assert moments[0].max() < moments[1].min()
        assert moments[1].max() < moments[2].min()


@pytest.mark.parametrize(
    ("moments", "fold", "line"),
    [
        (
            2,
            None,
            "data.split: [0.7, 0.15, 0.15] needs 3 moments of data.time, one for each split; there are "
            "2; remove data.time",
        ),
        (
            6,
            (0, 4, 0),
            "data.fold: 4 folds need as many moments outside the test set, without the two oldest; there are 3",
        ),
    ],
)
def test_too_few_moments_are_refused(moments: int, fold: Any, line: str) -> None:
    samples = made(np.arange(60) % 2, time=np.arange(60) * moments // 60)

    def split() -> None:
        fold_samples(samples, split_samples(samples, SPLIT, 0), fold, 0)

    with pytest.raises(InputError) as caught:
        split()
    assert caught.value.lines == [line]


def test_group_split_is_stratified() -> None:
    ours, usual = [], []
    for seed in range(20):
        y, groups = unequal_groups(seed)
        samples = made(y, groups=groups)
        indices = split_samples(samples, SPLIT, seed)
        sides = [set(groups[indices[stage]]) for stage in STAGES]
        assert sum(map(len, sides)) == 50 == len(set.union(*sides))
        for stage, share in zip(STAGES, SPLIT, strict=True):
            assert len(indices[stage]) == pytest.approx(share * len(y), rel=0.2)
        shares = np.bincount(y) / len(y)
        ours.append(np.abs(class_shares(samples, indices) - shares).max())
        rest, test = next(
            GroupShuffleSplit(1, test_size=0.15, random_state=seed).split(y, y, groups)
        )
        again = GroupShuffleSplit(1, test_size=0.15 / 0.85, random_state=seed)
        train, val = next(again.split(rest, rest, groups[rest]))
        plain: Indices = {"train": rest[train], "val": rest[val], "test": test}
        usual.append(np.abs(class_shares(samples, plain) - shares).max())
    assert np.mean(ours) < np.mean(usual) / 4
    assert np.max(ours) < 0.1


@pytest.mark.parametrize("split", [SPLIT, (0.2, 0.2, 0.6), (100, 10, 13)])
def test_class_of_three_is_in_each_split(split: tuple[float, float, float]) -> None:
    samples = made(np.repeat([0, 1, 2], [60, 60, 3]))
    for seed in range(50):
        indices = split_samples(samples, split, seed)
        for stage in STAGES:
            assert (samples.y[indices[stage]] == 2).sum() == 1  # type: ignore[index]
        assert len(torch.cat(list(indices.values())).unique()) == 123
    sizes = [len(indices[stage]) for stage in STAGES]
    shares = [part / sum(split) for part in split]
    assert sizes == pytest.approx([123 * share for share in shares], abs=1)


def test_split_smaller_than_the_classes_is_refused() -> None:
    y = np.arange(9) % 3
    with pytest.raises(InputError) as error:
        split_samples(made(y), SPLIT, 0)
    assert str(error.value) == (
        "data.split: [0.7, 0.15, 0.15] leaves 1 of 9 samples to a split, and it needs one of each "
        "of the 3 classes; add samples, or set counts of 3 or more for each split"
    )
    found = split_samples(made(y), (3, 3, 3), 0)
    assert (class_shares(made(y), found) > 0).all()


def test_class_of_two_is_refused() -> None:
    samples = made(np.repeat([0, 1, 2], [60, 60, 2]))
    with pytest.raises(InputError) as caught:
        split_samples(samples, SPLIT, 0)
    assert caught.value.lines == [
        "data.split: [0.7, 0.15, 0.15] needs 3 samples of each class, one for each split; fewer have: c (2); "
        "add samples or remove the class"
    ]
    assert len(split_samples(samples, (0.8, 0.2, 0), 0)["val"]) == 24  # two suffice


@pytest.mark.parametrize(
    ("groups", "note"),
    [(3, None), (2, "split: no sample in test of c"), (1, "split: no sample in val of c")],
)
def test_class_of_few_groups(groups: int, note: str | None) -> None:
    y = np.tile([0, 1], 60)
    y[: 6 * groups : 6] = 2  # one sample in each of the first groups
    samples = made(y, groups=np.arange(120) // 6)
    for seed in range(20):
        indices, notes = split_samples(samples, SPLIT, seed), list[str]()
        check_classes(samples, indices, notes)
        assert (note in notes) if note else not notes


def test_classes_of_two_groups_leave_no_split_empty() -> None:
    samples = made(np.repeat([0, 1, 2], 20), groups=np.arange(60) // 10)
    indices, notes = split_samples(samples, SPLIT, 0), list[str]()
    check_classes(samples, indices, notes)
    assert [len(indices[stage]) for stage in STAGES] == [30, 20, 10]
    assert len(notes) == 2
