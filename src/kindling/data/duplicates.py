"""Duplicates across splits, and keys and hashes of the samples' content."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.samples import STAGES, Samples, take
from src.kindling.data.split import Indices


def find_duplicates(samples: Samples, indices: Indices, then: str, notes: list[str]) -> None:
    """Find identical samples in different splits; note them, drop them, or refuse them.

    Raises:
        InputError: when there are some and `then` is `error`.
    """
    if then == "ignore":
        return
    # Vectorized, and in small types: a table may have millions of rows and as many duplicates.
    keys = content_keys(samples)
    split_of = np.full(len(keys), -1, dtype=np.int8)
    for place, stage in enumerate(STAGES):
        split_of[indices[stage].numpy()] = place
    order = np.argsort(keys, kind="stable")
    order = order[split_of[order] >= 0]
    keys = keys[order]
    new = np.ones(len(order), dtype=bool)  # where a sample differs from the one before it
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    del keys
    if new.all():
        return
    starts = np.flatnonzero(new)
    lowest = np.minimum.reduceat(split_of[order], starts)
    twins = np.cumsum(new) - 1  # the number of each sample's group of duplicates
    leaking = split_of[order] != lowest[twins]
    if not leaking.any():
        return
    places = np.flatnonzero(leaking)

    def locate(i: int) -> str:
        return f"{samples.name(i)} ({STAGES[split_of[i]]})"

    examples = []
    for place in places[np.argsort(order[places], kind="stable")][:3]:
        group = twins[place]
        end = starts[group + 1] if group + 1 < len(starts) else len(order)
        members = order[starts[group] : end]
        first = int(members[split_of[members] == lowest[group]][0])
        examples.append(f"{locate(first)} = {locate(int(order[place]))}")
    mixed = np.zeros(len(starts), dtype=bool)
    mixed[twins[places]] = True
    in_training = order[mixed[twins] & (split_of[order] == 0)]
    text = f"{len(places):,} samples are identical in another split: {'; '.join(examples)}"
    if then == "error":
        raise InputError(f"data: {text}; data.duplicates=drop removes them from training")
    if then == "drop" and len(in_training):
        keep = torch.ones(len(split_of), dtype=torch.bool)
        keep[torch.from_numpy(in_training)] = False
        indices["train"] = indices["train"][keep[indices["train"]]]
        notes.append(f"duplicates: {text}; {len(in_training):,} dropped from training")
    else:
        notes.append(f"duplicates: {text}; data.duplicates=drop removes them from training")


def content_keys(samples: Samples) -> Any:
    """A 64-bit key of each sample's content, `(N,)`; equal content has equal keys.

    Sources of files give their own keys (`content_keys`).
    """
    own = getattr(samples.x, "content_keys", None)
    if own is not None:
        return own()
    weights: Any = None
    keys = np.empty(len(samples.x), dtype=np.uint64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sums wrap around on purpose
        chunk = max(1, (1 << 18) // max(1, samples.x[:1].nbytes))
        for start in range(0, len(keys), chunk):
            index = torch.arange(start, min(start + chunk, len(keys)))
            content = take(samples.x, index).flatten(1)
            if samples.columns:  # rows often agree by chance; a duplicate has the same target, too
                y = samples.y[index].to(content.dtype).reshape(len(content), -1)
                content = torch.cat([content, y], dim=1)
            rows = content.contiguous().numpy().view(np.uint8)
            rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)
            if weights is None:
                weights = np.random.default_rng(0).integers(
                    0, 2**64, rows.shape[1], dtype=np.uint64
                ) | np.uint64(1)
            mixed = rows ^ (rows >> np.uint64(31))
            keys[start : start + len(rows)] = (mixed * weights).sum(axis=1, dtype=np.uint64)
    return keys


def hash_content(samples: Samples, read_files: bool) -> str:
    """Hash what the samples hold, inputs and targets.

    Files are hashed as in the search for duplicates: their lengths, and the content of files of
    equal length. Without `read_files` they are left out.
    """
    digest = hashlib.sha256()
    for source in (samples.x, samples.y):
        if isinstance(source, Tensor):
            digest.update(source.contiguous().view(torch.uint8).numpy().data)
        elif read_files:
            digest.update(content_keys(replace(samples, x=source)).tobytes())
    return digest.hexdigest()
