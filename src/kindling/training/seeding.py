"""Seed a training's random numbers from (seed, epoch, batch), in every hook."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from src.kindling.data.data_module import DataModule
from src.kindling.data.order import derive_seed, seed_generators
from src.kindling.training.lightning_internals import at_reload_epoch

CPU = torch.device("cpu")
HOOKS = ("prepare_data", "setup", "val_dataloader", "test_dataloader", "predict_dataloader")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed inside, and leave the CPU's generators as they were."""
    with isolate_rng(include_cuda=False):
        seed_generators(seed, CPU)
        yield


def seed_hooks(owner: Any, seed: int) -> None:
    """Make the draws in the data hooks of a data module or a module repeatable.

    `random_split` in `setup` then gives the same split in a training and in its evaluation. A
    `train_dataloader` that Lightning reloads draws from the epoch too, and sees the epoch in which
    an uninterrupted training reloads it.
    """
    for name in HOOKS:
        if hasattr(owner, name) and is_overridden(name, owner):
            setattr(owner, name, seeded(seed)(getattr(owner, name)))
    if hasattr(owner, "train_dataloader") and is_overridden("train_dataloader", owner):
        owner.train_dataloader = _seed_reloads(owner, owner.train_dataloader, seed)


def _seed_reloads(owner: Any, hook: Callable[[], Any], seed: int) -> Callable[[], Any]:
    @functools.wraps(hook)
    def train_dataloader() -> Any:
        with at_reload_epoch(owner) as epoch, seeded(derive_seed(seed, epoch) if epoch else seed):
            return hook()

    return train_dataloader


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
