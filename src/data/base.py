"""The one base class for data: split, statistics, order and loaders, the same for every source.

A subclass says where its samples come from (`load`, and `prepare_data` for a download). What would be wrong
everywhere if it were wrong once is done here: the split, the statistics of the training split, the order of the
batches, and the random draws of the transforms.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from src.data.spec import Spec
from src.errors import InputError
from src.seeds import derive

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """What every data module yields, and every task reads.

    Attributes:
        x: raw inputs, `(B, *shape)`; uint8 or float, not normalized.
        y: class numbers `(B,)` int64, or values `(B, num_outputs)` float32.
        index: the samples' numbers in the source, `(B,)` int64, whatever the split and the order.
        at: the epoch and the number of the batch within it.
    """

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    at: tuple[int, int]


@dataclass
class Samples:
    """Everything a source holds, before the split.

    Attributes:
        x: inputs, `(N, *shape)`, in memory.
        y: class numbers `(N,)` int64, or values `(N, num_outputs)` float32.
        classes: the classes' names; empty for regression.
        features: the columns' names of a table; empty for images.
        target: what is predicted, with its unit.
        official: the sample numbers of a split that the source itself defines, by stage.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    target: str = ""
    official: dict[Stage, Tensor] = field(default_factory=dict)


class DataModule(LightningDataModule):
    """Splits the samples of a source and serves them in batches.

    Args:
        batch_size: samples in a batch; evaluation takes the same.
        split: the shares (0.7) or counts (500) of training, validation and test. Where the source has an official
            test set, that is the test set, and the third entry is ignored.
        split_seed: which split. It is apart from the experiment's seed, so that runs with other seeds are
            measured on the same samples.
        seed: of the order of the training batches and of the transforms' draws; filled in from the config.
        num_workers: processes that prepare batches; 0 prepares them in the main process.
        train_transforms: torchvision v2 transforms, applied to each training sample with a draw of its own.
        test_transforms: the same for validation and test.
    """

    def __init__(
        self,
        batch_size: int = 64,
        split: tuple[float, float, float] = (0.7, 0.15, 0.15),
        split_seed: int = 0,
        seed: int = 0,
        num_workers: int = 0,
        train_transforms: list[nn.Module] | None = None,
        test_transforms: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size: expected at least 1, got {batch_size}")
        if num_workers < 0:
            raise InputError(f"data.num_workers: expected at least 0, got {num_workers}")
        self.batch_size = batch_size
        self.split = split
        self.split_seed = split_seed
        self.seed = seed
        self.num_workers = num_workers
        self.transforms: dict[Stage, nn.Module | None] = {
            "train": nn.Sequential(*train_transforms) if train_transforms else None,
            "val": nn.Sequential(*test_transforms) if test_transforms else None,
            "test": nn.Sequential(*test_transforms) if test_transforms else None,
        }
        self._samples: Samples | None = None

    @abstractmethod
    def load(self) -> Samples:
        """All samples of the source. Called once in each process, after `prepare_data`."""

    # Lightning calls this in every process and for every stage; the second call finds the work done.
    def setup(self, stage: str | None = None) -> None:
        if self._samples is not None:
            return
        samples = self.load()
        self.indices = split_samples(samples, self.split, self.split_seed)
        self.datasets = {
            stage: BatchDataset(samples, self.transforms[stage], self.seed if stage == "train" else None)
            for stage in STAGES
        }
        self.spec = self._describe(samples)
        self._samples = samples

    @property
    def samples(self) -> Samples:
        """The samples, after `setup`."""
        if self._samples is None:
            raise RuntimeError("call setup() first")
        return self._samples

    def split_hash(self) -> str:
        """A hash over which sample lies in which split."""
        digest = hashlib.sha256()
        for stage in STAGES:
            digest.update(stage.encode() + self.indices[stage].numpy().tobytes())
        return digest.hexdigest()

    def loader(self, stage: Stage) -> DataLoader[Batch]:
        """The batches of one stage. Only training shuffles."""
        order = BatchOrder(self.indices[stage], self.batch_size, self.seed if stage == "train" else None)
        return DataLoader(
            self.datasets[stage],
            sampler=order,
            batch_size=None,  # the sampler's lists are whole batches already
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # A loader draws a seed for its workers; from a generator of its own, so that the draw moves no other.
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")

    def _describe(self, samples: Samples) -> Spec:
        """The spec; all its statistics are of the training split alone."""
        train = self.indices["train"]
        first = self.datasets["test"][(0, 0, train[:1])].x[0]
        mean, std = mean_and_std(samples.x[train])
        classes = samples.classes
        counts = torch.bincount(samples.y[train], minlength=len(classes)).tolist() if classes else ()
        target_mean, target_std = ((), ()) if classes else mean_and_std(samples.y[train])
        return Spec(
            in_shape=tuple(first.shape),
            num_outputs=len(classes) or samples.y.shape[1],
            kind="image" if first.ndim == 3 else "table",
            classes=classes,
            class_counts=tuple(counts),
            features=samples.features,
            target=samples.target,
            mean=mean,
            std=std,
            target_mean=target_mean,
            target_std=target_std,
        )


class BatchDataset(Dataset[Batch]):
    """Serves whole batches: an index is `(epoch, batch, sample numbers)`.

    Args:
        samples: the source.
        transform: applied to each sample, or None.
        seed: makes each sample's draw a function of (seed, epoch, sample); None where nothing is random.
    """

    def __init__(self, samples: Samples, transform: nn.Module | None, seed: int | None) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __getitem__(self, request: tuple[int, int, Tensor]) -> Batch:
        epoch, batch, index = request
        x = self.samples.x[index]
        if self.transform is not None:
            x = torch.stack([self._transformed(sample, epoch, int(i)) for sample, i in zip(x, index, strict=True)])
        return Batch(x, self.samples.y[index], index, (epoch, batch))

    def _transformed(self, sample: Tensor, epoch: int, i: int) -> Tensor:
        if self.seed is not None:
            torch.default_generator.manual_seed(derive(self.seed, epoch, i))
        transformed: Tensor = self.transform(sample)  # type: ignore[misc]
        return transformed


class BatchOrder(Sampler[tuple[int, int, Tensor]]):
    """The batches of an epoch, as `(epoch, batch, sample numbers)`.

    The order is a function of (seed, epoch) and of nothing else. A last batch of a single sample joins the one
    before it, since batch normalization cannot train on one.

    Args:
        indices: the sample numbers, `(N,)`.
        batch_size: samples in a batch.
        seed: shuffles each epoch in its own way; None keeps the order as it is.
    """

    def __init__(self, indices: Tensor, batch_size: int, seed: int | None) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.indices)
        single = self.seed is not None and count % self.batch_size == 1 and count > 1
        return -(-count // self.batch_size) - (single and self.batch_size > 1)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        indices, batches = self.indices, len(self)
        if self.seed is not None:
            shuffled = np.random.default_rng(derive(self.seed, self.epoch)).permutation(len(indices))
            indices = indices[torch.from_numpy(shuffled)]
        for batch in range(batches):
            start = batch * self.batch_size
            end = None if batch == batches - 1 else start + self.batch_size
            yield self.epoch, batch, indices[start:end]


def split_samples(samples: Samples, split: Sequence[float], seed: int) -> dict[Stage, Tensor]:
    """Deal the samples out to training, validation and test; stratified by class, official splits kept.

    Raises:
        InputError: when the shares or counts cannot be had from this many samples.
    """
    from sklearn.model_selection import train_test_split

    total = len(samples.y)
    indices = dict(samples.official)
    taken = torch.zeros(total, dtype=torch.bool)
    for index in indices.values():
        taken[index] = True
    free = torch.nonzero(~taken).flatten().numpy()
    missing = [stage for stage in STAGES if stage not in indices]
    counts = _split_counts(split, missing, len(free))
    labels = samples.y.numpy() if samples.classes else None
    # The last stage is cut off first, so that a longer training set leaves the test set as it is.
    for stage in reversed(missing[1:]):
        size = counts[stage]
        if size == 0:
            indices[stage] = torch.empty(0, dtype=torch.int64)
            continue
        stratify = labels[free] if labels is not None else None
        try:
            free, cut = train_test_split(free, test_size=size, random_state=seed, stratify=stratify)
        except ValueError as error:
            raise InputError(f"data.split: {list(split)} does not fit {total} samples: {error}") from None
        indices[stage] = torch.from_numpy(np.sort(cut))
    if missing:
        indices[missing[0]] = torch.from_numpy(np.sort(free[: counts[missing[0]]]))
    return {stage: indices[stage] for stage in STAGES}


def _split_counts(split: Sequence[float], stages: Sequence[Stage], total: int) -> dict[Stage, int]:
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


def mean_and_std(x: Tensor, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel or feature of `(N, C, …)`, in chunks and in double precision.

    A constant channel has a standard deviation of 1, so that dividing by it changes nothing.
    """
    count, total, squares = (
        0,
        torch.zeros(x.shape[1], dtype=torch.float64),
        torch.zeros(x.shape[1], dtype=torch.float64),
    )
    for start in range(0, len(x), chunk):
        part = x[start : start + chunk]
        values = part.double().flatten(2) if part.ndim > 2 else part.double().unsqueeze(-1)  # N, C, pixels
        count += values.shape[0] * values.shape[2]
        total += values.sum(dim=(0, 2))
        squares += values.square().sum(dim=(0, 2))
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std < 1e-8 * mean.abs().clamp(min=1e-4), torch.ones_like(std), std)
    return tuple(mean.float().tolist()), tuple(std.float().tolist())


def _as_it_is(batch: Any) -> Any:
    return batch
