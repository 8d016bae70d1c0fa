"""The base class for data: split, statistics, order and loaders, the same for every source.

A subclass loads its samples (`load`) and downloads them if needed (`download`).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from src.kindling.config.compose import ROOT
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.data.augment import compose
from src.kindling.data.duplicates import find_duplicates, hash_content
from src.kindling.data.folds import FOLD_RESULT, fold_samples
from src.kindling.data.loader import BatchDataset, Loader, make_loader
from src.kindling.data.order import BatchOrder, derive_seed, seed_generators
from src.kindling.data.preprocess import BatchPreparation, BatchTransform, InputStats
from src.kindling.data.samples import STAGES, Samples, Stage
from src.kindling.data.spec import Spec
from src.kindling.data.split import check_classes, describe_classes, split_samples
from src.kindling.data.statistics import Moments, describe_samples, find_imprecise, mean_and_std
from src.kindling.runs.csv_text import to_csv

DATA = ROOT / "data"


class DataModule(LightningDataModule):
    """Splits the samples of a source and serves them in batches.

    Args:
        batch_size: samples in a batch, in training and evaluation.
        split: the shares (0.7) or counts (500) of training, validation and test. An official test
            set is kept; the third entry is then ignored.
        split_seed: seed of the split, so that runs of all `seed`s are tested on the same samples.
        fold: of a cross-validation: (fold number, number of folds, repetition). The fold of the
            samples outside the test set is tested; validation is cut from the other folds.
        seed: of the training order and of the transforms' draws; filled in from the config.
        num_threads: torch's threads, which get cores before workers; filled in from the config.
        num_workers: processes that prepare batches; 0 uses the main process. `auto` starts some if
            single samples are read or transformed. Workers times threads never exceed the cores.
        timeout: seconds to wait for a worker's batch before an error.
        device: `auto` keeps in-memory data on the GPU if there is one and it has room.
        train_transforms: torchvision v2 transforms of single training samples, and the batch
            transforms of src/kindling/data/augment.py.
        eval_transforms: torchvision v2 transforms for validation and test.
        sampler: `balanced` draws training samples so that all classes are equally frequent.
        duplicates: what to do about identical samples in different splits.
    """

    def __init__(
        self,
        batch_size: int = 64,
        split: tuple[float, float, float] = (0.7, 0.15, 0.15),
        split_seed: int = 0,
        fold: tuple[int, int, int] | None = None,
        seed: int = 0,
        num_threads: int = 1,
        num_workers: int | Literal["auto"] = "auto",
        timeout: float = 600.0,
        device: Literal["auto", "cpu"] = "auto",
        train_transforms: list[nn.Module] | None = None,
        eval_transforms: list[nn.Module] | None = None,
        sampler: Literal["shuffle", "balanced"] = "shuffle",
        duplicates: Literal["drop", "warn", "error", "ignore"] = "warn",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size: expected at least 1, got {batch_size}")
        if num_workers != "auto" and num_workers < 0:
            raise InputError(f"data.num_workers: expected at least 0 or 'auto', got {num_workers}")
        self.batch_size, self.seed = batch_size, seed
        self.split, self.split_seed, self.fold = split, split_seed, fold
        self.num_threads, self.asked_workers = num_threads, num_workers
        self.timeout, self.duplicates = timeout, duplicates
        self.keep_on_device, self.balanced = device == "auto", sampler == "balanced"
        train, evaluation = train_transforms or [], eval_transforms or []
        if wrong := [t for t in evaluation if isinstance(t, BatchTransform)]:
            name = type(wrong[0]).__name__
            raise InputError(f"data.eval_transforms: {name} is for training only; remove it")
        augment = [t for t in train if isinstance(t, BatchTransform)]
        single = [t for t in train if not isinstance(t, BatchTransform)]
        self.prepare = BatchPreparation(compose(augment))  # on the training device
        self.transforms: dict[Stage, nn.Sequential | None] = {
            "train": nn.Sequential(*single) if single else None,
            "val": nn.Sequential(*evaluation) if evaluation else None,
            "test": nn.Sequential(*evaluation) if evaluation else None,
        }
        self.notes: list[str] = []  # for the user, printed before training
        self._gpu_samples: dict[torch.device, Samples] = {}

    def download(self) -> None:
        """Download missing files into data/. Called by one process at a time."""

    @abstractmethod
    def load(self) -> Samples:
        """Load all samples. Called once in each process, after `download`."""

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        """Return the samples as one stage reads them."""
        seed = self.seed if stage == "train" else None
        return BatchDataset(samples, self.transforms[stage], seed)

    def statistics(self, samples: Samples, train: Tensor) -> Moments:
        """Mean and standard deviation of each channel or feature over the training samples."""
        return mean_and_std(samples.x, train)

    def describe(self, samples: Samples, train: Tensor) -> Spec:
        """Describe the data; fit only on the training samples, numbers `(N,)`."""
        x, y = self.datasets["test"][(0, 0, train[:1])]
        moments = self.statistics(samples, train)
        return describe_samples(samples, train, tuple(x.shape[1:]), tuple(y.shape[1:]), moments)

    # Lightning calls this on one process of each machine, and the commands call it themselves.
    def prepare_data(self) -> None:
        self.download()

    # Lightning calls this in every process and for every stage; only the first call does the work.
    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "samples"):
            return
        samples = self.load()
        if samples.target_type in ("class", "labels") and not samples.columns:
            self.notes.append(describe_classes(samples))
        self.indices = split_samples(samples, self.split, self.split_seed)
        if self.fold:
            self.indices = fold_samples(samples, self.indices, self.fold, self.split_seed)
            self.notes.append(f"fold: {FOLD_RESULT}")
        check_classes(samples, self.indices, self.notes)
        find_duplicates(samples, self.indices, self.duplicates, self.notes)
        self.datasets = {stage: self.dataset(samples, stage) for stage in STAGES}
        self.spec = self.describe(samples, self.indices["train"])
        self._compare_shapes()
        self.use_input_stats(None)
        self.notes += find_imprecise(samples, self.spec, self.indices["train"])
        in_memory = isinstance(getattr(samples.x, "packed", samples.x), Tensor)
        self.num_workers = self.choose_workers(not in_memory or any(self.transforms.values()))
        if self.balanced:
            if samples.target_type != "class":
                kind = samples.target_type.replace("mask", "masks")
                raise InputError(f"data.sampler: 'balanced' needs classes, and the data has {kind}")
            self.notes.append("sampler: balanced, each class equally often in training")
        self.samples = samples

    def _compare_shapes(self) -> None:
        """Check that training and test transforms give the same shape."""
        if not any(self.transforms.values()):
            return
        x, _ = self.datasets["train"][(0, 0, self.indices["train"][:1])]
        if (shape := tuple(x.shape[1:])) != self.spec.raw_shape:
            problem = f"give {shape} and test samples are {self.spec.raw_shape}"
            remedy = "make data.eval_transforms (or data.size) end in the same shape"
            raise InputError(f"data.train_transforms {problem}; {remedy}")

    def choose_workers(self, one_by_one: bool) -> int:
        """Limit the workers to the cores that threads leave: their number changes results."""
        cores = usable_cores()
        most = max(1, cores // self.num_threads)
        if self.asked_workers == "auto":
            return most if one_by_one else 0
        if self.asked_workers > most:
            reason = f"since {self.num_threads} threads are on {cores} cores"
            less = f"workers: {most} instead of {self.asked_workers}, {reason}"
            self.notes.append(f"{less}; num_threads=1 makes room for more")
        return min(self.asked_workers, most)

    def _on_device(self, device: torch.device) -> Samples | None:
        """Return the samples on the GPU, if they take less than half of its free memory."""
        x, y = getattr(self.samples.x, "packed", self.samples.x), self.samples.y
        if self.keep_on_device and device.type == "cuda" and device not in self._gpu_samples:
            free = torch.cuda.mem_get_info(device)[0]
            if isinstance(x, Tensor) and isinstance(y, Tensor) and x.nbytes + y.nbytes < free / 2:
                on_device = replace(self.samples, x=x.to(device), y=y.to(device))
                self._gpu_samples[device] = on_device
        return self._gpu_samples.get(device) if self.keep_on_device else None

    def split_hash(self) -> str:
        """Hash which sample is in which split."""
        digest = hashlib.sha256()
        for stage in STAGES:
            digest.update(stage.encode() + self.indices[stage].numpy().tobytes())
        return digest.hexdigest()

    def content_hash(self) -> str:
        """Hash what the samples hold; `data.duplicates=ignore` leaves out files."""
        return hash_content(self.samples, read_files=self.duplicates != "ignore")

    def split_csv(self) -> str:
        """Format the split as CSV: each sample's number, name and stage."""
        rows = []
        for stage in STAGES:
            for i in self.indices[stage].tolist():
                name = self.samples.name(i).encode("utf-8", "backslashreplace")  # others than UTF-8
                rows.append((i, name.decode(), stage))
        return to_csv(pd.DataFrame(rows, columns=["index", "name", "split"]))

    def loader(self, stage: Stage) -> Loader:
        """Return the batches of one stage. Only training shuffles."""
        order = self._order(stage)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        dataset, workers = self.datasets[stage], self.num_workers
        samples = None if self.transforms[stage] else self._on_device(device)
        if samples:
            order.device = device  # only the order is copied to the GPU in each epoch
            dataset, workers = BatchDataset(samples, None, None), 0
        pin_memory = device.type == "cuda" and not samples
        return make_loader(dataset, order, workers, self.timeout, pin_memory)

    def _order(self, stage: Stage) -> BatchOrder:
        indices, training = self.indices[stage], stage == "train"
        labels = self.samples.y[indices] if training and self.balanced else None
        trainer = self.trainer
        share = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return BatchOrder(indices, self.batch_size, self.seed if training else None, labels, *share)

    def sample_numbers(self, stage: Stage, epoch: int, batch: int) -> Tensor:
        """Return the sample numbers in this process's batch, `(B,)`."""
        return self._order(stage).numbers(epoch, batch)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Standardize a batch on the training device, and augment it in training."""
        if isinstance(batch, Tensor):  # Lightning's summary passes one input through
            return batch
        x, y = batch
        trainer = self.trainer
        if trainer is None:
            return self.prepare(x, y)
        if trainer.training and self.prepare.augment:
            number = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            position = trainer.current_epoch, number, trainer.global_rank
            seed_generators(derive_seed(self.seed, *position), y.device)
        x, y = self.prepare(x, y, augment=trainer.training)
        return trainer.precision_plugin.convert_input(x), y

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Move a batch; `prepare` moves the rows of a table, whose float64 MPS lacks."""
        if self.spec.columns and not isinstance(batch, Tensor):
            return batch[0], batch[1].to(device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def use_input_stats(self, stats: InputStats | None) -> None:
        """Prepare inputs as a pretrained net expects; None standardizes by the training split."""
        self.prepare.fit(self.spec, stats)

    def train_dataloader(self) -> Loader:
        return self.loader("train")

    def val_dataloader(self) -> Loader:
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        return self.loader("test")

    predict_dataloader = test_dataloader
