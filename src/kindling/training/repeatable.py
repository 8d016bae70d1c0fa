"""Seed a training's random numbers from (seed, epoch, batch), whichever loader and hook draws them.

A map-style DataLoader keeps its class, its samplers, its collate function and its workers. Its
batch sampler and its data set are wrapped, so that a resumed epoch skips index lists without
reading a sample. Any other loader is read forward to where the training resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, IterableDataset

from src.kindling.data.data_module import DataModule
from src.kindling.data.loader import Loader
from src.kindling.data.order import derive_seed, seed_generators
from src.kindling.training.lightning_internals import cycles_loaders

CPU = torch.device("cpu")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed inside, and leave the CPU's generators as they were."""
    with isolate_rng(include_cuda=False):
        seed_generators(seed, CPU)
        yield


def seed_hooks(owner: Any, seed: int) -> None:
    """Repeat what a data module or a module draws in its data hooks.

    `random_split` in `setup` then gives the same split in a training and in its evaluation.
    """
    for name in ("prepare_data", "setup", *LOADERS):
        if hasattr(owner, name) and is_overridden(name, owner):
            setattr(owner, name, seeded(seed)(getattr(owner, name)))


class Seeding(Callback):
    """Seeds torch, numpy and Python from (seed, epoch, batch, rank) before each batch.

    The draws of a batch depend on no other batch, data module or logger.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    # Called before the module's own setup: what that draws is then the same in src.evaluate.
    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._seed(module, -5, trainer.global_rank)

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, number: int) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, DataModule) and data.prepare.augment:
            return  # seeded for this batch before it was augmented
        self._seed(module, trainer.current_epoch, number, trainer.global_rank)

    # Not from the batch before it: a training resumed at a validation has not run that batch.
    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            place = trainer.current_epoch, -2, trainer.global_step, trainer.global_rank
            self._seed(module, *place)
        else:  # the best checkpoint is measured, perhaps by src.evaluate
            self._seed(module, -3, trainer.global_rank)

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seed(module, -4, trainer.global_rank)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._seed(module, trainer.current_epoch, -1, trainer.global_rank)

    def _seed(self, module: LightningModule, *place: int) -> None:
        seed_generators(derive_seed(self.seed, *place), module.device)


@dataclass
class Position:
    """Which epoch a loader is in, and the first batch to read in it."""

    trainer: Trainer | None  # None for validation and test, which draw the same in each epoch
    seed: int
    resumed: tuple[int, int]  # the epoch and the batch with which a resumed training starts

    epoch: int = -1  # the one that is read
    cycle: int = 0  # how often it has been read from the start: a shorter one of several loaders

    def start(self, length: int | None) -> int:
        """Begin to read the loader, of so many batches, and return the first batch to read."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if epoch == self.epoch and self.trainer:
            self.cycle += 1
            return 0
        self.epoch, self.cycle = epoch, 0
        first = self.resumed[1] if self.trainer and epoch == self.resumed[0] else 0
        if first and length and self.trainer and cycles_loaders(self.trainer):
            self.cycle, first = divmod(first, length)
        return first

    def seed_of_order(self) -> int:
        cycle = (-self.cycle,) if self.cycle else ()
        return derive_seed(self.seed, self.epoch, *cycle)

    def seed_of_batch(self, number: int) -> int:
        return derive_seed(self.seed, self.epoch, number)


class Batch(NamedTuple):
    """What a wrapped sampler yields: the seed for reading the samples, and their indices."""

    seed: int
    indices: Any


class _Wrapper:
    """Has all other attributes of the object that it wraps."""

    def __init__(self, wrapped: Any, position: Position | None = None) -> None:
        self.wrapped, self.position = wrapped, position

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("wrapped", "position"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class RepeatableSampler(_Wrapper):
    """A sampler's index lists of an epoch, each with a seed."""

    position: Position

    @property
    def sampler(self) -> Any:
        """The wrapped one, whose `set_epoch` Lightning calls."""
        return self.wrapped

    def __iter__(self) -> Iterator[Batch]:
        lists: Any = self.wrapped
        length = _length(lists)
        first = self.position.start(length)
        seed = self.position.seed_of_order()
        for part in (self.wrapped, getattr(self.wrapped, "sampler", None)):
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(seed)
        if length is not None:  # all at once, so that no other draw comes between
            with seeded(seed):
                lists = list(lists)
        before = self.position.cycle * (length or 0)
        for number, indices in enumerate(lists):
            if number >= first:
                yield Batch(self.position.seed_of_batch(before + number), indices)


class RepeatableDataset(_Wrapper):
    """A data set whose samples are read with seeded generators, in whichever process."""

    def __getitems__(self, batch: Batch) -> Any:
        seed_generators(batch.seed, CPU)
        if hasattr(self.wrapped, "__getitems__"):
            return self.wrapped.__getitems__(batch.indices)
        return [self.wrapped[index] for index in batch.indices]

    def __getitem__(self, batch: Any) -> Any:
        if not isinstance(batch, Batch):  # somebody looks at a sample
            return self.wrapped[batch]
        seed_generators(batch.seed, CPU)
        return self.wrapped[batch.indices]


class RepeatableIterable(_Wrapper):
    """Any other loader: seeded before each batch, and read forward to the first batch."""

    position: Position

    def __iter__(self) -> Iterator[Any]:
        first = self.position.start(_length(self.wrapped))
        seed_generators(self.position.seed_of_order(), CPU)  # its workers' seeds
        batches = iter(self.wrapped)
        for number in count():
            seed_generators(self.position.seed_of_batch(number), CPU)
            try:
                batch = next(batches)
            except StopIteration:
                return
            if number >= first:
                yield batch


def _length(batches: Any) -> int | None:
    try:
        return len(batches)
    except (TypeError, NotImplementedError):  # a stream, or a sampler that does not know
        return None


def make_repeatable(trainer: Trainer, seed: int, resumed: tuple[int, int] = (0, 0)) -> None:
    """Have a Trainer's loaders repeat, after Lightning has shared them between processes.

    Args:
        trainer: its strategy is changed.
        seed: of the experiment.
        resumed: the epoch and the batch with which a training resumes.
    """
    process = trainer.strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        training = trainer.state.stage == RunningStage.TRAINING
        position = Position(trainer if training else None, seed, resumed)
        return _repeatable(process(dataloader), position)

    trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]


def _repeatable(loader: Any, position: Position) -> Any:
    """The same loader, repeatable; a map-style DataLoader is changed in place."""
    if isinstance(loader, Loader | RepeatableIterable):  # Kindling's own repeat by themselves
        return loader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return RepeatableIterable(loader, position)
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    if isinstance(loader.dataset, RepeatableDataset):  # its author returns the same one again
        getattr(loader, name).position = position
        return loader
    # Past DataLoader.__setattr__, which refuses: no iterator has been made yet.
    vars(loader)[name] = RepeatableSampler(getattr(loader, name), position)
    vars(loader)["dataset"] = RepeatableDataset(loader.dataset)
    return loader
