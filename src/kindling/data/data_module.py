"""The one base class for data: split, statistics, order and loaders, the same for every source.

A subclass says where its samples come from (`load`, and `download` where they are fetched). What would be wrong
everywhere if it were wrong once is done here: the split, the statistics of the training split, the order of the
batches, and the random draws of the transforms.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from src.kindling.config.compose import ROOT
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.data.batch import (
    STAGES,
    Batch,
    BatchDataset,
    BatchOrder,
    BatchTransform,
    Samples,
    Source,
    Stage,
    take,
)
from src.kindling.data.loader import Loader, as_it_is
from src.kindling.data.spec import Column, Spec
from src.kindling.runs.signals import in_worker

DATA = ROOT / "data"
# So many masks tell how often each class occurs.
COUNTED_MASKS = 512


def _import_sklearn() -> None:
    """Import scikit-learn without pandas, which it wants for ARFF files alone and which takes longer than all the rest."""
    if not {"pandas", "sklearn"} & sys.modules.keys():
        sys.modules["pandas"] = None  # type: ignore[assignment]  # so an import of it fails, which scikit-learn is ready for
        try:
            import sklearn.datasets
            import sklearn.model_selection  # noqa: F401
        finally:
            del sys.modules["pandas"]


class DataModule(LightningDataModule):
    """Splits the samples of a source and serves them in batches.

    Args:
        batch_size: samples in a batch; evaluation takes the same.
        split: the shares (0.7) or counts (500) of training, validation and test. Where the source has an official
            test set, that is the test set, and the third entry is ignored.
        split_seed: which split. It is apart from the experiment's seed, so that runs with other seeds are
            measured on the same samples.
        fold: of a cross-validation, as (its number, how many there are, which repetition); it takes the place of
            validation, all other samples of training and validation are trained on, and the test set stays as it is.
        seed: of the order of the training batches and of the transforms' draws; filled in from the config.
        threads: torch's threads, which workers leave room for; filled in from the config.
        num_workers: processes that prepare batches; 0 prepares them in the main process. `auto` takes some where
            single samples are read or transformed. Workers times threads never exceed the cores.
        timeout: seconds after which a worker that gives no batch is taken for stuck.
        device: `auto` keeps data that lies in memory on the GPU, where there is one and they fit.
        train_transforms: torchvision v2 transforms, applied to each training sample with a draw of its own, and
            the batch transforms of src/kindling/data/augment.py.
        test_transforms: torchvision v2 transforms for validation and test.
        sampler: `balanced` draws training samples so that all classes come equally often.
        duplicates: what to do when a sample of one split stands, identical, in another as well.
    """

    def __init__(
        self,
        batch_size: int = 64,
        split: tuple[float, float, float] = (0.7, 0.15, 0.15),
        split_seed: int = 0,
        fold: tuple[int, int, int] | None = None,
        seed: int = 0,
        threads: int = 1,
        num_workers: int | Literal["auto"] = "auto",
        timeout: float = 600.0,
        device: Literal["auto", "cpu"] = "auto",
        train_transforms: list[nn.Module] | None = None,
        test_transforms: list[nn.Module] | None = None,
        sampler: Literal["shuffle", "balanced"] = "shuffle",
        duplicates: Literal["drop", "warn", "error", "ignore"] = "warn",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size: expected at least 1, got {batch_size}")
        if num_workers != "auto" and num_workers < 0:
            raise InputError(f"data.num_workers: expected at least 0 or 'auto', got {num_workers}")
        self.batch_size = batch_size
        self.split = split
        self.split_seed = split_seed
        self.fold = fold
        self.seed = seed
        self.threads = threads
        self.asked_workers = num_workers
        self.timeout = timeout
        self.keep_on_device = device == "auto"
        self.balanced = sampler == "balanced"
        self.duplicates = duplicates
        train, test = train_transforms or [], test_transforms or []
        # What works on whole batches runs on the training device, after preprocessing; see src/kindling/data/augment.py.
        self.augment = [transform for transform in train if isinstance(transform, BatchTransform)]
        if self.augment:
            from src.kindling.data.augment import compose

            self.augment = compose(self.augment)
        if wrong := [transform for transform in test if isinstance(transform, BatchTransform)]:
            raise InputError(f"data.test_transforms: {type(wrong[0]).__name__} is for training alone")
        per_sample = [transform for transform in train if not isinstance(transform, BatchTransform)]
        self.transforms: dict[Stage, nn.Sequential | None] = {
            "train": nn.Sequential(*per_sample) if per_sample else None,
            "val": nn.Sequential(*test) if test else None,
            "test": nn.Sequential(*test) if test else None,
        }
        self.notes: list[str] = []  # what a user should be told of the data
        self.position = (0, 0)  # the epoch and the batch that a resumed training goes on with
        self._samples: Samples | None = None
        self._there: Samples | None = None

    def download(self) -> None:
        """Fetch what is missing into data/. Called by one process at a time."""

    @abstractmethod
    def load(self) -> Samples:
        """All samples of the source. Called once in each process, after `download`."""

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        """The samples as one stage reads them."""
        return BatchDataset(samples, self.transforms[stage], self.seed if stage == "train" else None)

    def statistics(self, samples: Samples, train: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel or feature over the training samples."""
        return mean_and_std(samples.x, train)

    def final_notes(self) -> list[str]:
        """What is known of the data only after training."""
        return []

    def describe(self, samples: Samples, train: Tensor) -> Spec:
        """The spec; whatever it fits, it fits on the training samples, numbers `(N,)`, alone."""
        one = self.datasets["test"][(0, 0, train[:1])]
        first = one.x[0]
        table = first.ndim == 1
        mean, std = self.statistics(samples, train)
        columns = tuple(Column(name, mean=m, std=s) for name, m, s in zip(samples.columns, mean, std, strict=True)) \
            if table else ()  # fmt: skip
        return Spec(
            in_shape=tuple(first.shape),
            kind="table" if table else "image",
            columns=columns,
            mean=(0.0,) if table else mean,
            std=(1.0,) if table else std,
            source_shape=tuple(samples.x[train[:1]].shape[1:]),
            white=samples.white,
            **{**of_target(samples, train), "target_shape": tuple(one.y.shape[1:])},
        )

    # Lightning calls this on one process of each machine, and the commands call it themselves.
    def prepare_data(self) -> None:
        self.download()

    # Lightning calls this in every process and for every stage; the second call finds the work done.
    def setup(self, stage: str | None = None) -> None:
        if self._samples is not None:
            return
        from src.kindling.data.split import check_classes, find_duplicates, fold_samples, split_samples

        _import_sklearn()
        samples = self.load()
        self.indices = split_samples(samples, self.split, self.split_seed)
        if self.fold:
            self.indices = fold_samples(samples, self.indices, self.fold, self.split_seed)
        check_classes(samples, self.indices)
        find_duplicates(samples, self.indices, self.duplicates, self.notes)
        self.datasets = {stage: self.dataset(samples, stage) for stage in STAGES}
        self.spec = self.describe(samples, self.indices["train"])
        self._compare_shapes()
        for transform in self.augment:
            transform.fit(self.spec)
        self.num_workers = self._workers(samples)
        if self.balanced and self.spec.predicts != "class":
            what = {"mask": "masks"}.get(self.spec.predicts, self.spec.predicts)
            raise InputError(f"data.sampler: 'balanced' needs classes, and the data has {what}")
        if self.balanced:
            self.notes.append("sampler: balanced, each class equally often in training")
        self._samples = samples

    def _compare_shapes(self) -> None:
        """Training and test transforms have to end in one shape."""
        if self.transforms["train"] is None and self.transforms["test"] is None:
            return
        train = tuple(self.datasets["train"][(0, 0, self.indices["train"][:1])].x.shape[1:])
        if train != self.spec.raw_shape:
            raise InputError(f"data.train_transforms give {train} and test samples are {self.spec.raw_shape}; "
                             "make data.test_transforms (or data.size) end in the same shape")  # fmt: skip

    def _workers(self, samples: Samples) -> int:
        """As many as asked for, or as pay; the threads keep their cores, since their number changes results."""
        most = max(1, usable_cores() // self.threads)
        if self.asked_workers == "auto":
            one_by_one = any(self.transforms.values()) or not isinstance(
                getattr(samples.x, "packed", samples.x), Tensor
            )
            return most if one_by_one else 0
        if self.asked_workers > most:
            self.notes.append(f"workers: {most} instead of {self.asked_workers}, since {self.threads} threads are on "
                              f"{usable_cores()} cores; threads=1 makes room for more")  # fmt: skip
        return min(self.asked_workers, most)

    def _on_device(self, device: torch.device) -> Samples | None:
        """The samples on the GPU, if they lie in memory and take less than half of what is free there."""
        x = getattr(self.samples.x, "packed", self.samples.x)
        y = self.samples.y
        if device.type != "cuda" or not self.keep_on_device or not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            return None
        there = self._there and self._there.y
        if not isinstance(there, Tensor) or there.device != device:
            if x.nbytes + y.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
                return None
            self._there = replace(self.samples, x=x.to(device), y=y.to(device))
        return self._there

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

    def content_hash(self) -> str:
        """A hash over what the samples hold, inputs and targets.

        Of files it takes what the search for duplicates knows: their lengths, and the content of those that are as long
        as another; nothing with `data.duplicates=ignore`, which is for folders that take too long to read.
        """
        from src.kindling.data.split import content_keys

        digest = hashlib.sha256()
        for source in (self.samples.x, self.samples.y):
            if isinstance(source, Tensor):
                digest.update(source.contiguous().view(torch.uint8).numpy().data)
            elif self.duplicates != "ignore":
                digest.update(content_keys(replace(self.samples, x=source)).tobytes())
        return digest.hexdigest()

    def split_csv(self) -> str:
        """The split as CSV: each sample's number, its name and where it lies."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", "name", "split"])
        for stage in STAGES:
            for some in torch.split(self.indices[stage], 4096):  # a list of all would take more memory than a table
                writer.writerows([i, self.samples.name(i), stage] for i in some.tolist())
        return text.getvalue()

    def loader(self, stage: Stage) -> Loader:
        """The batches of one stage. Only training shuffles."""
        training = stage == "train"
        labels = self.samples.y[self.indices[stage]] if training and self.balanced else None
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = BatchOrder(self.indices[stage], self.batch_size, self.seed if training else None, labels, rank, ranks)
        if training:
            order.go_on(*self.position)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        dataset, workers = self.datasets[stage], self.num_workers
        if self.transforms[stage] is None and (there := self._on_device(device)):
            order.device = device  # an epoch moves its order, and nothing else
            dataset, workers = BatchDataset(there, None, None), 0
        return Loader(
            dataset,
            sampler=order,
            batch_size=None,  # the sampler's lists are whole batches already
            collate_fn=as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=in_worker,
            timeout=self.timeout if workers else 0,
            pin_memory=device.type == "cuda" and dataset is self.datasets[stage],
            # A loader draws a seed for its workers; from a generator of its own, so that the draw moves no other.
            generator=torch.Generator(),
        )

    # Lightning's own way walks through the batch as through any nested structure, in every step.
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type == "cpu":
            return batch
        return batch._replace(x=batch.x.to(device, non_blocking=True), y=batch.y.to(device, non_blocking=True))

    def train_dataloader(self) -> Loader:
        return self.loader("train")

    def val_dataloader(self) -> Loader:
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        return self.loader("test")


def of_target(samples: Samples, train: Tensor) -> dict[str, Any]:
    """The fields of a spec that follow from the targets of the training samples."""
    kind = samples.predicts
    if kind == "mask":  # which may lie in files: a sample of them shows which classes there are most of
        train = train[torch.linspace(0, len(train) - 1, min(len(train), COUNTED_MASKS)).long()]
    y = take(samples.y, train)
    found: dict[str, Any] = {
        "target": samples.target, "target_shape": tuple(y.shape[1:]), "classes": samples.classes,
        "num_outputs": len(samples.classes),
    }  # fmt: skip
    if kind == "values":
        mean, std = mean_and_std(y, torch.arange(len(y)))
        return found | {"num_outputs": y.shape[1], "targets": samples.targets, "target_mean": mean, "target_std": std}
    if kind == "labels":
        found["target_mean"] = tuple(y.float().mean(dim=0).tolist())
    counts = y.sum(dim=0) if kind == "labels" else torch.bincount(y.flatten(), minlength=len(samples.classes))
    return found | {"class_counts": tuple(counts[: len(samples.classes)].tolist())}  # without 255, what does not count


def mean_and_std(x: Source, index: Tensor, numbers: int = 1 << 17) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel or feature over some samples `(N, C, …)`.

    In double precision, and in chunks of so many numbers; missing values (NaN) are left out. A constant channel has a
    standard deviation of 1, so that dividing by it changes nothing.
    """
    count, total, squares = (torch.zeros(1, dtype=torch.float64) for _ in range(3))
    chunk = max(1, numbers // max(1, x[index[:1]].numel()))
    for start in range(0, len(index), chunk):
        part = take(x, index[start : start + chunk])
        part = part.flatten(2) if part.ndim > 2 else part.unsqueeze(-1)  # N, C, pixels
        if part.dtype is torch.uint8:  # whole numbers add up exactly, and fast
            wide = part.transpose(0, 1).flatten(1).int()  # C, N x pixels
            count = count + wide.shape[1]
            total = total + wide.sum(dim=1)
            squares = squares + (wide * wide).sum(dim=1)
        else:
            values = part.double()
            count = count + (~values.isnan()).sum(dim=(0, 2))
            total = total + values.nansum(dim=(0, 2))
            squares = squares + values.square().nansum(dim=(0, 2))
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std < 1e-8 * mean.abs().clamp(min=1e-4), torch.ones_like(std), std)
    return tuple(mean.float().tolist()), tuple(std.float().tolist())


def data_path(path: str | Path) -> Path:
    """A path from a config: `~` is the home folder, and relative ones start at the repository."""
    return ROOT / Path(path).expanduser()
