"""The data module's contract: split, statistics, order, batches."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.data.breast_cancer import BreastCancer
from src.data.diabetes import Diabetes
from src.data.digits import Digits
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.order import BatchOrder
from src.kindling.data.samples import STAGES, Samples, Stage
from src.kindling.data.statistics import mean_and_std
from tests.conftest import numbered_batches


class Blobs(DataModule):
    """200 rows of two features, 150 of class a and 50 of class b; the last 20 are an official test set on request."""

    def __init__(self, official: bool = False, **base: Any) -> None:
        super().__init__(**base)
        self.official = official

    def load(self) -> Samples:
        y = torch.arange(200) % 4 == 3
        x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
            [1.0, 10.0]
        )
        official: dict[Any, Tensor] = {"test": torch.arange(180, 200)} if self.official else {}
        return Samples(
            x=x, y=y.long(), classes=("a", "b"), columns=("one", "two"), official=official
        )


def ready(**options: Any) -> Blobs:
    data = Blobs(**options)
    data.setup()
    return data


@pytest.mark.parametrize(
    "data",
    [Digits(), Diabetes(), BreastCancer(), Blobs(official=True)],
    ids=lambda d: type(d).__name__,
)
def test_split_partitions_samples(data: DataModule) -> None:
    data.setup()
    dealt = torch.cat([data.indices[stage] for stage in STAGES])
    assert torch.equal(dealt.sort().values, torch.arange(len(data.samples.y)))


def test_split_stratified_by_class() -> None:
    data = ready()
    assert [len(data.indices[stage]) for stage in STAGES] == [140, 30, 30]
    shares = [data.samples.y[data.indices[stage]].float().mean().item() for stage in STAGES]
    assert shares == pytest.approx([0.25, 0.25, 0.25], abs=0.02)


def test_split_seed() -> None:
    assert ready().split_hash() == ready(seed=5).split_hash()
    assert ready().split_hash() != ready(split_seed=1).split_hash()


def test_content_hash() -> None:
    data = ready()
    first = data.content_hash()
    assert ready(seed=5, split_seed=1).content_hash() == first
    data.samples.x[3] += 1
    changed = data.content_hash()
    assert changed != first
    data.samples.y[3] = 1 - data.samples.y[3]
    assert data.content_hash() not in (first, changed)


def test_split_by_count() -> None:
    data = ready(split=(50, 20, 10))
    assert [len(data.indices[stage]) for stage in STAGES] == [50, 20, 10]
    assert len(torch.cat(list(data.indices.values())).unique()) == 80


def test_split_by_count_nested_and_stratified() -> None:
    few, more = (ready(split=(count, 20, 10)) for count in (8, 50))
    assert torch.bincount(few.samples.y[few.indices["train"]]).tolist() == [6, 2]
    assert set(few.indices["train"].tolist()) < set(more.indices["train"].tolist())
    assert few.indices["test"].tolist() == more.indices["test"].tolist()
    other = ready(split=(8, 20, 10), split_seed=1)
    assert other.indices["train"].tolist() != few.indices["train"].tolist()
    assert len(ready(split=(169, 20, 10)).indices["train"]) == 169  # all but one


def test_split_official_test_set() -> None:
    data = ready(official=True, split=(0.9, 0.1, 0.0))
    assert torch.equal(data.indices["test"], torch.arange(180, 200))
    assert [len(data.indices[stage]) for stage in STAGES] == [162, 18, 20]


@pytest.mark.parametrize(
    ("split", "text"),
    [
        ((0.5, 0.2, 0.1), "data.split: [0.5, 0.2, 0.1]: the shares add up to 0.8, not to 1"),
        ((300, 20, 10), "data.split: [300, 20, 10]: asks for 330 samples, and the source has 200"),
        (
            (10.5, 20, 10),
            "data.split: [10.5, 20, 10]: shares and counts are mixed; give three of one kind",
        ),
        (
            (-0.5, 1, 0.5),
            "data.split: [-0.5, 1, 0.5]: expected three shares such as [0.7, 0.15, 0.15], or three counts, "
            "none negative",
        ),
    ],
)
def test_split_refused(split: tuple[float, float, float], text: str) -> None:
    with pytest.raises(InputError) as caught:
        ready(split=split)
    assert caught.value.lines == [text]


def test_statistics_of_training_split_only() -> None:
    data = ready()
    train = data.samples.x[data.indices["train"]]
    assert [column.mean for column in data.spec.columns] == pytest.approx(
        train.mean(0).tolist(), abs=1e-5
    )
    assert [column.std for column in data.spec.columns] == pytest.approx(
        train.std(0, unbiased=False).tolist(), rel=1e-5
    )
    moved = Blobs()
    original = moved.load
    held_out = torch.cat([data.indices["val"], data.indices["test"]])

    def load() -> Samples:
        samples = original()
        samples.x[held_out] += 1000
        return samples

    moved.load = load  # type: ignore[method-assign]
    moved.setup()
    assert moved.spec == data.spec


def test_statistics_of_image_channels() -> None:
    x = torch.stack([torch.arange(16.0).reshape(4, 4), torch.full((4, 4), 7.0)]).repeat(5, 1, 1, 1)
    mean, std = mean_and_std(x.to(torch.uint8), torch.arange(5), numbers=64)
    assert mean == (7.5, 7.0)
    assert std == pytest.approx((np.arange(16).std(), 1.0), rel=1e-6)


def test_setup_twice() -> None:
    data = ready()
    before = (data.split_hash(), data.spec, data.samples)
    data.setup("fit")
    data.setup("test")
    assert (data.split_hash(), data.spec) == before[:2]
    assert data.samples is before[2]


def test_spec() -> None:
    data = Digits()
    data.setup()
    spec = data.spec
    assert (spec.in_shape, spec.num_outputs, spec.kind, spec.classes[:2]) == (
        (1, 8, 8),
        10,
        "image",
        ("0", "1"),
    )
    assert sum(spec.class_counts) == 1257
    table = Diabetes()
    table.setup()
    assert (table.spec.in_shape, table.spec.num_outputs, table.spec.kind) == ((10,), 1, "table")
    assert table.spec.target_mean[0] == pytest.approx(
        table.samples.y[table.indices["train"]].mean().item()
    )
    assert dataclasses.asdict(spec)["target_mean"] == ()


def test_batches_are_raw_and_numbered() -> None:
    data = Digits(batch_size=100)
    data.setup()
    batches = list(numbered_batches(data, "train"))
    assert [len(y) for _, _, y in batches] == [100] * 12 + [57]
    numbers, x, y = batches[3]
    assert x.dtype is torch.uint8
    assert torch.equal(x, data.samples.x[numbers])
    assert torch.equal(y, data.samples.y[numbers])
    x, _ = data.on_after_batch_transfer((x, y), 0)
    assert x.dtype is torch.float32
    assert torch.allclose(
        x * data.spec.std[0] + data.spec.mean[0], data.samples.x[numbers].float(), atol=1e-4
    )


def test_order_by_stage_epoch_and_seed() -> None:
    def order(data: DataModule, stage: Stage, epoch: int = 0) -> Tensor:
        return torch.cat([numbers for numbers, _, _ in numbered_batches(data, stage, epoch)])

    data = ready(seed=1)
    for stage in ("val", "test"):
        assert torch.equal(order(data, stage), data.indices[stage])  # type: ignore[arg-type]
    first, again, second = order(data, "train"), order(data, "train"), order(data, "train", 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, order(ready(seed=2), "train"))


def test_loader_keeps_global_generator() -> None:
    data = ready(num_workers=0)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_last_single_sample_joins_batch() -> None:
    def sizes(count: int, seed: int | None) -> list[int]:
        order = BatchOrder(torch.arange(count), 4, seed)
        found = [len(index) for _, _, index in order]
        assert len(found) == len(order)
        return found

    assert sizes(9, seed=0) == [4, 5]
    assert sizes(9, seed=None) == [4, 4, 1]
    assert sizes(10, seed=0) == [4, 4, 2]
    assert sizes(1, seed=0) == [1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sample_transforms_repeat(num_workers: int) -> None:
    from torchvision.transforms import v2

    def batches(batch_size: int) -> dict[int, Tensor]:
        data = Digits(
            batch_size=batch_size,
            num_workers=num_workers,
            train_transforms=[v2.RandomRotation(30)],
            seed=3,
        )
        data.setup()
        assert torch.equal(
            next(iter(data.val_dataloader()))[0][0], data.samples.x[data.indices["val"][0]]
        )
        drawn = numbered_batches(data, "train")
        return {
            int(i): x for numbers, batch, _ in drawn for i, x in zip(numbers, batch, strict=True)
        }

    one, other = batches(64), batches(100)
    assert all(torch.equal(one[i], other[i]) for i in one)
    data = Digits()
    data.setup()
    assert (
        sum(torch.equal(x, data.samples.x[i]) for i, x in one.items()) < 600
    )  # most of the 1,257 are turned by more than half a pixel


def test_workers_end_after_collection() -> None:
    data = Digits(batch_size=2000, num_workers=2, num_threads=1, train_transforms=[nn.Identity()])
    data.setup()
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)  # the only one: the other worker has had none
    workers = multiprocessing.active_children()
    cycle: list[Any] = [loader, batches]
    cycle.append(cycle)
    del loader, batches, cycle
    gc.collect()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_refused_arguments() -> None:
    with pytest.raises(InputError, match=r"data.batch_size: expected at least 1, got 0"):
        Blobs(batch_size=0)
    with pytest.raises(
        InputError, match=r"data.num_workers: expected at least 0 or 'auto', got -1"
    ):
        Blobs(num_workers=-1)


def test_num_workers_within_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms import v2

    monkeypatch.setattr("src.kindling.data.data_module.usable_cores", lambda: 8)
    turned = {"train_transforms": [v2.RandomRotation(5)]}

    def workers(**options: Any) -> int:
        data = Digits(**options)
        data.setup()
        return data.num_workers

    assert workers() == 0  # tensors in memory are served fastest from the main process
    assert [workers(num_threads=n, **turned) for n in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]
    assert workers(num_workers=0, **turned) == 0
    data = Digits(num_workers=6, num_threads=2)
    data.setup()
    assert (data.num_workers, data.notes[1:]) == (
        4,
        [
            "workers: 4 instead of 6, since 2 threads are on 8 cores; num_threads=1 makes room for more"
        ],
    )


@pytest.mark.parametrize(("seed", "counts"), [(0, [33, 33, 33]), (None, [34, 33, 33])])
def test_order_shared_by_ranks(seed: int | None, counts: list[int]) -> None:
    orders = [BatchOrder(torch.arange(100), 10, seed, None, rank, 3) for rank in range(3)]
    shares = [torch.cat([index for _, _, index in order]) for order in orders]
    assert [len(share) for share in shares] == counts
    assert [len(order) for order in orders] == [len(list(order)) for order in orders]
    assert len(torch.cat(shares).unique()) == sum(counts)  # none twice
