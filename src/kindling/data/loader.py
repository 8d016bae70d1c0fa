"""The data set of whole batches, and torch's DataLoader with an orderly end of its workers."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.order import derive_seed
from src.kindling.data.samples import Samples, take
from src.kindling.runs.signals import in_worker


class BatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Reads whole batches `(x, y)` of raw values: an index is `(epoch, batch, sample numbers)`.

    Args:
        samples: the source.
        transform: applied to each sample, or None.
        seed: makes each sample's draw a function of (seed, epoch, sample); None without draws.
    """

    def __init__(self, samples: Samples, transform: nn.Sequential | None, seed: int | None) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __getitem__(self, request: tuple[int, int, Tensor]) -> tuple[Tensor, Tensor]:
        epoch, _, index = request
        x, y = self.samples.x, self.samples.y
        if self.transform is None:
            x, y = take(x, index), take(y, index)
        else:
            transformed = [self._transform(epoch, i) for i in index.tolist()]
            x = _stack([sample[0] for sample in transformed])
            mask = self.samples.target_type == "mask"
            y = _stack([sample[1] for sample in transformed]) if mask else take(y, index)
        return x, y

    def _transform(self, epoch: int, i: int) -> tuple[Tensor, ...]:
        """Transform a sample's input and its mask, if any, with one draw for both."""
        assert self.transform is not None
        if self.seed is not None:
            torch.default_generator.manual_seed(derive_seed(self.seed, epoch, i))
        x, y = self.samples.x[i], self.samples.y
        if self.samples.target_type != "mask":
            return (self.transform(x),)
        pair = self.transform((tv_tensors.Image(x), tv_tensors.Mask(y[i])))
        return tuple(tensor.as_subclass(Tensor) for tensor in pair)


def _stack(samples: list[Tensor]) -> Tensor:
    shapes = dict.fromkeys(str(tuple(sample.shape)) for sample in samples)
    if len(shapes) > 1:
        problem = f"data transforms give samples of different shapes: {join_names(list(shapes))}"
        example = "torchvision.transforms.v2.Resize with size=[64,64]"
        raise InputError(f"{problem}; end them with one that sets the size, such as {example}")
    return torch.stack(samples)


class Loader(DataLoader[Any]):
    """A DataLoader that ends its workers before the garbage collector takes it apart.

    A loader that an error left in mid-epoch is part of a cycle, through the error's traceback. The
    garbage collector may close the pipes to its workers before torch shuts them down (torch 2.11 to
    2.15). torch then waits ten seconds for a worker that had no batch yet, and writes its message
    into whatever has the closed pipe's number by now.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()  # a generator, which keeps the loader alive meanwhile

    def _get_iterator(self) -> Any:
        batches = super()._get_iterator()
        if self.num_workers:
            # Called before any part of the loader is collected; until then it keeps the pipes open.
            weakref.finalize(self, _end, batches, os.getpid()).atexit = False
        return batches


def make_loader(
    dataset: Dataset[Any],
    order: Any,
    workers: int,
    timeout: float = 0,
    pin_memory: bool = False,
    persistent: bool = True,
    loader: type[Loader] = Loader,
) -> Loader:
    """Make the loader of a data set that reads whole batches, in an order of sample indices.

    `persistent` workers wait for the next epoch with what they hold in memory.
    """
    return loader(
        dataset,
        sampler=order,
        batch_size=None,  # the sampler gives whole batches
        collate_fn=as_it_is,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=in_worker,
        timeout=timeout if workers else 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the workers' seed must not advance the global generator
    )


def as_it_is(batch: Any) -> Any:
    """Return a batch unchanged: the collate function of whole batches."""
    return batch


def _end(batches: Any, process: int) -> None:
    if os.getpid() == process:
        batches._shutdown_workers()
    else:  # a worker forked since then collects its copy; it must not shut down others' processes
        batches._shutdown = True
