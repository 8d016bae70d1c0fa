"""The parts of a loader: its samplers, its length, and the part that saves its position."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler


def length_of(batches: Any) -> int | None:
    """The number of batches; None of a stream, or of a sampler that does not know."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


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


def seed_own_generators(owner: Any, seed: int) -> None:
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, torch.Generator):
            value.manual_seed(seed)
        elif isinstance(value, random.Random | np.random.RandomState):
            value.seed(seed % 2**32)
        elif isinstance(value, np.random.Generator):
            value.bit_generator.state = type(value.bit_generator)(seed).state


def stateful_part(loader: Any) -> Any:
    """The loader or its data set, if it can save and restore its position; else None."""
    if is_stateful(loader):
        return loader
    dataset = getattr(loader, "dataset", None)
    in_workers = getattr(loader, "num_workers", 0) > 0  # which read copies of it
    return dataset if is_stateful(dataset) and not in_workers else None


def is_stateful(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def is_stream(loader: Any) -> bool:
    """Whether a loader has no index lists."""
    map_style = isinstance(loader, DataLoader)
    return not map_style or isinstance(loader.dataset, IterableDataset)
