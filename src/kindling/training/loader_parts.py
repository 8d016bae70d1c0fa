"""The parts of a loader: samplers, data sets, random generators, and what saves its position."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

GENERATORS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
# Seeded by epoch, or no part of reading a sample.
ELSEWHERE: tuple[type, ...] = (type, Tensor, Sampler, DataLoader)
ELSEWHERE += (LightningDataModule, LightningModule, Trainer)
MOST_ITEMS, MOST_PARTS = 100, 10_000  # of a container, and in all: a data set may be a long list


def samplers_of(sampler: Any) -> list[Any]:
    """A sampler, and those that it takes its indices from: the innermost is the last."""
    inner = [
        value
        for name, value in getattr(sampler, "__dict__", {}).items()
        if name in ("sampler", "_sampler", "batch_sampler")
        or isinstance(value, Sampler)
        or (name == "dataset" and hasattr(value, "_sampler"))  # DistributedSamplerWrapper's
    ]
    return [sampler, *(part for value in inner for part in samplers_of(value))]


def datasets_of(dataset: Any) -> dict[str, Any]:
    """A data set, and those within it: of a `Subset`, say."""
    found: dict[str, Any] = {}
    while dataset is not None and len(found) < 8:
        found[f"dataset{len(found)}"] = dataset
        dataset = vars(dataset).get("dataset") if hasattr(dataset, "__dict__") else None
    return found


def seed_own_generators(owner: Any, seed: int) -> None:
    """Seed the generators that are attributes of an object."""
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, GENERATORS):
            seed_generator(value, seed)


def seed_generator(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed % 2**32)


def generators_within(dataset: Any) -> list[Any]:
    """The random generators that a data set and its transforms keep."""
    found: list[Any] = []
    seen: set[int] = set()
    parts = [dataset]
    while parts and len(seen) < MOST_PARTS:
        part = parts.pop()
        if id(part) in seen or isinstance(part, ELSEWHERE):
            continue
        seen.add(id(part))
        if isinstance(part, GENERATORS):
            found.append(part)
        elif isinstance(part, dict | list | tuple):
            if len(part) <= MOST_ITEMS:
                parts += part.values() if isinstance(part, dict) else part
        else:
            parts += getattr(part, "__dict__", {}).values()
    return found


def stateful_part(loader: Any) -> Any:
    """The loader or its data set, if it can save and restore its position; else None."""
    if _is_stateful(loader):
        return loader
    dataset = getattr(loader, "dataset", None)
    in_workers = getattr(loader, "num_workers", 0) > 0  # which read copies of it
    return dataset if _is_stateful(dataset) and not in_workers else None


def _is_stateful(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def is_stream(loader: Any) -> bool:
    """Whether a loader has no index lists."""
    map_style = isinstance(loader, DataLoader)
    return not map_style or isinstance(loader.dataset, IterableDataset)
