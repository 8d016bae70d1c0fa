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
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __getitem__(self, request: tuple[int, int, Tensor]) -> tuple[Tensor, Tensor]:
        epoch, _, index = request
        if self.transform is None:
            x, y = take(self.samples.x, index), take(self.samples.y, index)
        elif self.samples.target_type == "mask":
            pairs = [self._transform(epoch, i) for i in index.tolist()]
            x, y = (self._stack([pair[place] for pair in pairs]) for place in (0, 1))
        else:
            x = self._stack([self._transform(epoch, i)[0] for i in index.tolist()])
            y = take(self.samples.y, index)
        unreadable = getattr(self.samples.x, "unreadable", None)
        if unreadable is not None and bool(unreadable[index].any()):
            readable = ~unreadable[index]
            x, y = x[readable], y[readable]
            if not len(x):
                raise InputError(
                    "data: no image of a whole batch can be read; repair or remove the files"
                )
        return x, y

    def _stack(self, transformed: list[Tensor]) -> Tensor:
        shapes = {tuple(sample.shape): None for sample in transformed}
        if len(shapes) > 1:
            listed = join_names([str(shape) for shape in shapes])
            raise InputError(
                f"data transforms give samples of different shapes: {listed}; end them with one "
                "that sets the size, such as torchvision.transforms.v2.Resize with size=[64,64]"
            )
        return torch.stack(transformed)

    def _transform(self, epoch: int, i: int) -> tuple[Tensor, ...]:
        """Transform a sample's input and its mask, if any, with one draw for both."""
        assert self.transform is not None
        if self.seed is not None:
            torch.default_generator.manual_seed(derive_seed(self.seed, epoch, i))
        if self.samples.target_type != "mask":
            return (self.transform(self.samples.x[i]),)
        from torchvision import tv_tensors

        x, y = self.transform(
            (tv_tensors.Image(self.samples.x[i]), tv_tensors.Mask(self.samples.y[i]))
        )
        return x.as_subclass(Tensor), y.as_subclass(Tensor)
