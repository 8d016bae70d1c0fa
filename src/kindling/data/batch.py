"""What flows from a source to a task: samples, batches, their order, and their transforms.

The data module (src/kindling/data/data_module.py) puts these together; the sources make samples, and the tasks read batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from src.kindling.config.errors import InputError, counted
from src.kindling.data.seeds import derive
from src.kindling.data.spec import Predicts, Spec, kind_of_target

Stage = Literal["train", "val", "test"]


STAGES: tuple[Stage, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """What every data module yields, and every task reads.

    Attributes:
        x: raw inputs, `(B, *shape)`; uint8 or float, not normalized.
        y: class numbers `(B,)` or labels (0 or 1) `(B, num_outputs)` int64, values `(B, num_outputs)` float32, or masks
            of class numbers `(B, H, W)` uint8.
        index: the samples' numbers in the source, `(B,)` int64, whatever the split and the order.
        at: the epoch and the number of the batch within it.
    """

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    at: tuple[int, int]


class Source(Protocol):
    """Raw inputs by sample number. A tensor `(N, *shape)` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Tensor:
        """A batch `(B, *shape)` for an index tensor `(B,)`; one sample, at its own size, for an int."""


@dataclass
class Samples:
    """Everything a source holds, before the split.

    Attributes:
        x: raw inputs, `N` of them.
        y: class numbers `(N,)` or labels (0 or 1) `(N, num_outputs)` int64, values `(N, num_outputs)` float32; or masks
            of class numbers `(N, H, W)` uint8, a source like `x`, in which 255 stands for pixels that do not count.
        classes: the names of classes or labels; empty for values.
        columns: the names of a table's features; empty for images.
        target: what is predicted, with its unit.
        targets: the values' names, where there are several.
        official: the sample numbers of splits that the source itself defines, by stage.
        groups: a group's number for each sample `(N,)`; no group comes to lie in two splits.
        time: a number for each sample `(N,)`; the split goes by it, the oldest for training.
        name: what a person calls a sample: its path, or its row.
        white: the largest value that a pixel can have.
    """

    x: Source
    y: Tensor | Source
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target: str = ""
    targets: tuple[str, ...] = ()
    official: dict[Stage, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    time: Tensor | None = None
    name: Callable[[int], str] = str
    white: float = 255.0

    @property
    def predicts(self) -> Predicts:
        """What is predicted of a sample; see `Spec.predicts`."""
        return kind_of_target(self.classes, self.y.ndim - 1 if isinstance(self.y, Tensor) else 2)


class BatchTransform(nn.Module):
    """A random transform of whole training batches on the training device; src/kindling/data/augment.py has them.

    Attributes:
        mixes: whether targets are blended; class numbers reach it as shares of the classes, `(B, classes)`.
    """

    mixes = False

    def fit(self, spec: Spec) -> None:
        """Told of the data before training; nothing is needed by most."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized inputs `(B, …)` and targets `(B, …)` to those that the net and the loss receive.

        What moves pixels moves masks `(B, H, W)` with them.
        """
        raise NotImplementedError


class BatchDataset(Dataset[Batch]):
    """Serves whole batches: an index is `(epoch, batch, sample numbers)`.

    Args:
        samples: the source.
        transform: applied to each sample, or None.
        seed: makes each sample's draw a function of (seed, epoch, sample); None where nothing is random.
    """

    def __init__(self, samples: Samples, transform: nn.Sequential | None, seed: int | None) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __getitem__(self, request: tuple[int, int, Tensor]) -> Batch:
        epoch, batch, index = request
        if self.transform is None:
            x, y = take(self.samples.x, index), take(self.samples.y, index)
        elif self.samples.predicts == "mask":
            pairs = [self._transformed(epoch, i) for i in index.tolist()]
            x, y = (self._stacked([pair[place] for pair in pairs]) for place in (0, 1))
        else:
            x = self._stacked([self._transformed(epoch, i)[0] for i in index.tolist()])
            y = take(self.samples.y, index)
        unreadable = getattr(self.samples.x, "unreadable", None)
        if unreadable is not None and bool(unreadable[index].any()):
            readable = ~unreadable[index]
            x, y, index = x[readable], y[readable], index[readable]
            if not len(index):
                raise InputError("data: not one picture of a whole batch can be read")
        return Batch(x, y, index, (epoch, batch))

    def _stacked(self, transformed: list[Tensor]) -> Tensor:
        shapes = {tuple(sample.shape): None for sample in transformed}
        if len(shapes) > 1:
            raise InputError(f"data transforms give samples of different shapes: {counted(list(map(str, shapes)))}; "
                             "end them with one that sets the size, such as torchvision.transforms.v2.Resize with "
                             "size=[64,64]")  # fmt: skip
        return torch.stack(transformed)

    def _transformed(self, epoch: int, i: int) -> tuple[Tensor, ...]:
        """A sample's input and, where there is one, its mask: one draw for both."""
        assert self.transform is not None
        if self.seed is not None:
            torch.default_generator.manual_seed(derive(self.seed, epoch, i))
        if self.samples.predicts != "mask":
            return (self.transform(self.samples.x[i]),)
        from torchvision import tv_tensors

        x, y = self.transform((tv_tensors.Image(self.samples.x[i]), tv_tensors.Mask(self.samples.y[i])))
        return x.as_subclass(Tensor), y.as_subclass(Tensor)


class BatchOrder(Sampler[tuple[int, int, Tensor]]):
    """The batches of an epoch, as `(epoch, batch, sample numbers)`.

    The order is a function of (seed, epoch) and of nothing else. A last batch of a single sample joins the one
    before it, since batch normalization cannot train on one.

    Args:
        indices: the sample numbers, `(N,)`.
        batch_size: samples in a batch.
        seed: shuffles each epoch in its own way; None keeps the order as it is.
        labels: the samples' classes `(N,)`, to draw each class equally often, with replacement.
        rank, ranks: which share of the samples this process takes. In training all shares are equally long, so that
            no process waits for another's batch; otherwise each sample is in exactly one.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        seed: int | None,
        labels: Tensor | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.labels = labels
        self.rank, self.ranks = rank, ranks
        self.device = torch.device("cpu")
        self.epoch = 0
        self.begin = (0, 0)  # where a resumed training goes on: the epoch, and the number of its first batch

    def go_on(self, epoch: int, batch: int) -> None:
        """Leave out the batches before this one of this epoch: they were trained on before the interruption."""
        self.epoch, self.begin = epoch, (epoch, batch)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.indices) // self.ranks
        if self.seed is None:
            count += self.rank < len(self.indices) % self.ranks
        single = self.seed is not None and count % self.batch_size == 1 and count > 1
        return -(-count // self.batch_size) - (single and self.batch_size > 1)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        indices, batches = self.indices, len(self)
        if self.seed is not None:
            indices = indices[self._drawn(np.random.default_rng(derive(self.seed, self.epoch)))]
        if self.ranks > 1:
            equal = len(indices) // self.ranks * self.ranks
            indices = indices[self.rank : equal if self.seed is not None else None : self.ranks]
        indices = indices.to(self.device)
        for batch in range(self.begin[1] if self.epoch == self.begin[0] else 0, batches):
            start = batch * self.batch_size
            end = None if batch == batches - 1 else start + self.batch_size
            yield self.epoch, batch, indices[start:end]

    def _drawn(self, random: np.random.Generator) -> Tensor:
        if self.labels is None:
            return torch.from_numpy(random.permutation(len(self.indices)))
        counts = torch.bincount(self.labels).double()
        share = (1 / counts / (counts > 0).sum())[self.labels]
        return torch.from_numpy(random.choice(len(share), size=len(share), p=(share / share.sum()).numpy()))


def take(x: Source, index: Tensor) -> Tensor:
    """The inputs `(B, *shape)` of some samples `(B,)`. Whole rows are copied five times as fast as indexing does it."""
    return x.index_select(0, index) if isinstance(x, Tensor) else x[index]
