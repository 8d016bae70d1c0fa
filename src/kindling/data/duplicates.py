"""Duplicates across splits, and keys and hashes of the samples' content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.samples import STAGES, Samples, take
from src.kindling.data.split import Indices


def find_duplicates(samples: Samples, indices: Indices, then: str, notes: list[str]) -> None:
    """Find identical samples in different splits; note them, drop them, or refuse them."""
    if then == "ignore":
        return
    order = torch.cat([indices[stage] for stage in STAGES]).numpy()
    split = np.repeat(np.arange(len(STAGES)), [len(indices[stage]) for stage in STAGES])
    keys = content_keys(samples)[order]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    twin = first[group]  # the first sample of the same content: in training, if any is there
    _find_contradictions(samples, order, order[twin], then, notes)
    leaks = np.flatnonzero(split != split[twin])
    if not len(leaks):
        return

    def locate(i: int) -> str:
        return f"{samples.name(int(order[i]))} ({STAGES[split[i]]})"

    examples = leaks[np.argsort(order[leaks])][:3]
    listed = "; ".join(f"{locate(twin[i])} = {locate(i)}" for i in examples)
    text = f"{len(leaks):,} samples are identical in another split: {listed}"
    remedy = "data.duplicates=drop removes them from training"
    if then == "error":
        raise InputError(f"data: {text}; {remedy}")
    leaking = np.isin(group, group[leaks])[: len(indices["train"])]
    if then == "drop" and leaking.any():
        indices["train"] = indices["train"][torch.from_numpy(~leaking)]
        remedy = f"{leaking.sum():,} dropped from training"
    notes.append(f"duplicates: {text}; {remedy}")


def _find_contradictions(
    samples: Samples, order: Any, twins: Any, then: str, notes: list[str]
) -> None:
    """Find samples whose target differs from that of an identical one; note or refuse them."""
    if not isinstance(samples.y, Tensor):  # masks in files
        return
    different = (samples.y[order] != samples.y[twins]).reshape(len(order), -1).any(dim=1).numpy()
    different &= order != twins  # NaN differs from itself
    if not different.any():
        return

    def describe(i: int) -> str:
        y: Any = samples.y[i].tolist()
        target = samples.classes[y] if samples.target_type == "class" else y
        return f"{samples.name(i)} ({target})"

    pairs = zip(twins[different][:3].tolist(), order[different][:3].tolist(), strict=True)
    listed = "; ".join(f"{describe(twin)} = {describe(i)}" for twin, i in pairs)
    text = f"{different.sum():,} samples are identical to others with another target: {listed}"
    remedy = "correct or remove them, or give a file several labels (data.labels)"
    if then == "error":
        raise InputError(f"data: {text}; {remedy}")
    notes.append(f"targets: {text}; {remedy}")


def content_keys(samples: Samples) -> Any:
    """A 64-bit key of each sample's content, `(N,)`; equal content has equal keys."""
    if hasattr(samples.x, "content_keys"):
        return samples.x.content_keys()
    keys = []
    for index in torch.split(torch.arange(len(samples.x)), 1024):
        content = take(samples.x, index).flatten(1)
        if samples.columns:  # rows often agree by chance; a duplicate has the same target, too
            y = samples.y[index].to(content.dtype).reshape(len(index), -1)
            content = torch.cat([content, y], dim=1)
        keys += [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in content.numpy()]
    return np.frombuffer(b"".join(keys), dtype=np.uint64)


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
            digest.update(content_keys(Samples(source, source)).tobytes())
    return digest.hexdigest()
