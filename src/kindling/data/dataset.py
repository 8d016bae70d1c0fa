"""The data set that reads whole batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.order import derive_seed
from src.kindling.data.samples import Samples, take


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
        from torchvision import tv_tensors

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
