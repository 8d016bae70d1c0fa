"""The order of an epoch's batches, and the seeds of everything that is drawn.

Randomness is a function, not a state. The order of an epoch, the augmentation of a sample and the
dropout of a batch each follow from the experiment's seed and from what is drawn: not from earlier
draws, the number of workers, or an interruption.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


def derive_seed(*numbers: int) -> int:
    """Return a 63-bit seed that depends on the integers and their order; takes about 1 µs."""
    packed = struct.pack(f"<{len(numbers)}q", *(number % 2**63 for number in numbers))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch on the CPU and on a device, numpy and random."""
    # The generator's own `manual_seed` takes 1 µs, where `torch.manual_seed` takes 100.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class BatchOrder(Sampler[tuple[int, int, Tensor]]):
    """The batches of an epoch, as `(epoch, batch, sample numbers)`.

    The order depends on (seed, epoch) alone. A last batch of a single sample is merged into the
    batch before it, since batch normalization cannot train on one sample.

    Args:
        indices: the sample numbers, `(N,)`.
        batch_size: samples in a batch.
        seed: shuffles each epoch in its own way; None keeps the order as it is.
        labels: the samples' classes `(N,)`, to draw each class equally often, with replacement.
        rank, world_size: this process and their number. In training each takes as many samples, so
            that none waits for another's batch; otherwise each sample is in exactly one share.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        seed: int | None,
        labels: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices, self.labels = indices, labels
        self.batch_size, self.seed = batch_size, seed
        end = None if seed is None else len(indices) // world_size * world_size
        self.share = slice(rank, end, world_size)
        self.count = len(range(len(indices))[self.share])
        self.device = torch.device("cpu")
        self.epoch = 0
        self.start = (0, 0)  # where a resumed training starts: the epoch, and its first batch

    def resume_from(self, epoch: int, batch: int) -> None:
        """Skip this epoch's batches before this one, which were trained on before."""
        self.epoch, self.start = epoch, (epoch, batch)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch_size)
        merged = self.seed is not None and rest == 1 and full > 0
        return full + (rest > 0 and not merged)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        epoch = self.epoch
        order = self._order(epoch).to(self.device)
        first = self.start[1] if epoch == self.start[0] else 0
        for batch in range(first, len(self)):
            yield epoch, batch, self._slice(order, batch)

    def numbers(self, epoch: int, batch: int) -> Tensor:
        """Return the sample numbers of one batch of an epoch, `(B,)`."""
        return self._slice(self._order(epoch), batch)

    def _slice(self, order: Tensor, batch: int) -> Tensor:
        start = batch * self.batch_size
        return order[start:] if batch == len(self) - 1 else order[start : start + self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        """Return this process's samples in the order of an epoch."""
        if self.seed is None:
            return self.indices[self.share]
        generator = np.random.default_rng(derive_seed(self.seed, epoch))
        count = len(self.indices)
        if self.labels is None:
            return self.indices[generator.permutation(count)][self.share]
        counts = torch.bincount(self.labels).double()
        share = (1 / counts / (counts > 0).sum())[self.labels]
        drawn = generator.choice(count, size=count, p=(share / share.sum()).numpy())
        return self.indices[drawn][self.share]
