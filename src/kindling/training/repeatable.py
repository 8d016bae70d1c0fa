"""Make the loaders of any data module repeatable, by seeding with (seed, epoch, batch).

A map-style DataLoader keeps its class, its samplers, its collate function and its workers. Its
batch sampler and its data set are replaced by thin proxies, so that a resumed epoch skips index
lists without reading a sample. Any other loader is read forward to where the training resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from src.kindling.data.loader import Loader
from src.kindling.data.order import derive_seed
from src.kindling.training.seeded import seed_all, seeded


class Numbered(NamedTuple):
    """What a sampler yields, and the seed of the samples that are read for it."""

    seed: int
    indices: Any


class Position:
    """Which epoch a loader is in, and the first batch to read in it.

    Args:
        trainer: whose epoch it is; None for validation and test, which draw the same in each epoch.
        seed: of the loader.
        resumed: the epoch and the batch that a resumed training begins with.
    """

    def __init__(self, trainer: Trainer | None, seed: int, resumed: tuple[int, int]) -> None:
        self.trainer, self.seed, self.resumed = trainer, seed, resumed

    def begin(self) -> tuple[int, int]:
        """The present epoch, and the number of its first batch."""
        if self.trainer is None:
            return 0, 0
        epoch = self.trainer.current_epoch
        return epoch, self.resumed[1] if epoch == self.resumed[0] else 0


class RepeatableSampler(Sampler[Numbered]):
    """A sampler's index lists of an epoch, each with a seed."""

    def __init__(self, sampler: Any, position: Position) -> None:
        self.sampler, self.position = sampler, position

    def __iter__(self) -> Iterator[Numbered]:
        epoch, first = self.position.begin()
        seed = derive_seed(self.position.seed, epoch)
        for part in (self.sampler, getattr(self.sampler, "sampler", None)):
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(seed)
        lists: Any = self.sampler
        if hasattr(self.sampler, "__len__"):  # drawn at once, so that no other draw comes between
            with seeded(seed):
                lists = list(self.sampler)
        for number, indices in enumerate(lists):
            if number >= first:
                yield Numbered(derive_seed(self.position.seed, epoch, number), indices)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:  # `set_epoch`, `batch_size`, `drop_last`
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)


class RepeatableDataset(Dataset[Any]):
    """A data set whose samples are read with seeded generators, in whichever process."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, request: Numbered) -> Any:
        seed_all(request.seed)
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(request.indices)
        return [self.dataset[index] for index in request.indices]

    def __getitem__(self, request: Any) -> Any:
        if not isinstance(request, Numbered):  # somebody looks at a sample
            return self.dataset[request]
        seed_all(request.seed)
        return self.dataset[request.indices]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class RepeatableIterable:
    """Any other loader: seeded before each batch, and read forward to the first batch."""

    def __init__(self, loader: Any, position: Position) -> None:
        self.loader, self.position = loader, position

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.position.begin()
        seed_all(derive_seed(self.position.seed, epoch))  # of the seeds that workers get
        batches = iter(self.loader)
        for number in count():
            seed_all(derive_seed(self.position.seed, epoch, number))
            try:
                batch = next(batches)
            except StopIteration:
                return
            if number >= first:
                yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


def make_repeatable(trainer: Trainer, seed: int, resumed: tuple[int, int] = (0, 0)) -> None:
    """Have a Trainer's loaders repeat, after Lightning has shared them between processes.

    Args:
        trainer: its strategy hands each loader on.
        seed: of the experiment.
        resumed: the epoch and the batch that a resumed training begins with.
    """
    process = trainer.strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        loader = process(dataloader)
        if isinstance(loader, Loader | RepeatableIterable):  # Kindling's own repeat by themselves
            return loader
        training = trainer.state.stage == RunningStage.TRAINING
        position = Position(trainer if training else None, seed, resumed)
        return repeat(loader, position)

    trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]


def repeat(loader: Any, position: Position) -> Any:
    """The same loader, repeatable; a map-style DataLoader is changed in place."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return RepeatableIterable(loader, position)
    if isinstance(
        loader.dataset, RepeatableDataset
    ):  # made once by its author, and handed over again
        _sampler_of(loader).position = position
        return loader
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    # Past DataLoader.__setattr__, which refuses: no iterator has been made yet.
    vars(loader)[name] = RepeatableSampler(getattr(loader, name), position)
    vars(loader)["dataset"] = RepeatableDataset(loader.dataset)
    return loader


def _sampler_of(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler
