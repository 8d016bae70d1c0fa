"""Seed every generator that code of a user may draw from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from src.kindling.data.order import seed_generators

HOOKS = (
    "prepare_data",
    "setup",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
)


def seed_all(seed: int) -> None:
    """Seed torch's CPU generator, numpy and random."""
    seed_generators(seed, torch.device("cpu"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed inside, and leave the generators as they were."""
    with isolate_rng(include_cuda=False):
        seed_all(seed)
        yield


def seed_hooks(owner: Any, seed: int) -> None:
    """Make what a data module or a module draws in its data hooks the same in every call.

    `random_split` in `setup` then gives the same split in a training and in its evaluation.

    Args:
        owner: a LightningDataModule, or a LightningModule with loaders.
        seed: of the experiment.
    """
    for name in HOOKS:
        if hasattr(owner, name) and is_overridden(name, owner):
            setattr(owner, name, _seeded(getattr(owner, name), seed))


def _seeded(method: Callable[..., Any], seed: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with seeded(seed):
            return method(*args, **kwargs)

    return call
