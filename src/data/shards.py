"""Data larger than memory: Parquet or tar shards, read while a net trains on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from src.kindling.config import InputError
from src.kindling.data import (
    KEY,
    Rows,
    Spec,
    Stage,
    build_preprocess,
    convert,
    describe_shards,
    make_shard_loader,
    split_shards,
)


class Shards(LightningDataModule):
    """Images or numbers in Parquet files, or in tar files of webdataset's layout.

    Args:
        folder: of `.parquet` or `.tar` files, or of folders `train`, `val` and `test` of such. The
            lines of a `classes.txt` in it name the classes; else these are the target's values.
        input: a column of encoded images or of lists of numbers; in tar files `jpg`, `png`.
        target: a column of numbers or names; in tar files `cls`, `txt`, or `json.age`.
        kind: `auto` predicts values for numbers with a fraction, classes for all others.
        batch_size: rows in a batch.
        buffer_size: rows in memory, undecoded, among which those for training are shuffled.
        num_workers: processes that read and decode; the batches are the same for any number.
        split: shares of the shards for training, validation and test, where these have no folder.
        channels: 1 reads images as gray, 3 as RGB.
        seed: of the order and of the transforms' draws; filled in from the config.
        train_transforms, eval_transforms: torchvision v2 transforms of single samples. Images of
            different sizes need some that end in one size.
    """

    def __init__(
        self,
        folder: str,
        input: str = "image",
        target: str = "label",
        kind: Literal["auto", "classification", "regression"] = "auto",
        batch_size: int = 64,
        buffer_size: int = 8192,
        num_workers: int = 1,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        channels: Literal[1, 3] = 3,
        seed: int = 0,
        train_transforms: list[nn.Module] | None = None,
        eval_transforms: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.split, self.kind = folder, split, kind
        self.batch_size, self.buffer_size = batch_size, buffer_size
        self.num_workers, self.seed = num_workers, seed
        self.eval_transforms = eval_transforms  # for src.predict
        self.decode = Decode(input, target, channels, nn.Sequential(*eval_transforms or ()))
        self.augment = nn.Sequential(*train_transforms or ())
        self.notes: list[str] = []  # printed before training

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "shards"):
            return
        shards, split = split_shards(self.folder, self.split)
        self._spec, found = describe_shards(self.folder, shards, self.decode, self.kind)
        self.preprocess = build_preprocess(self._spec)
        self.shards, self.notes = shards, [*split, *found]

    @property
    def spec(self) -> Spec:
        """What a net and a task need to know of the data; they are built before `setup`."""
        self.setup()
        return self._spec

    def loader(self, stage: Stage) -> Any:
        """The batches of a stage: a torch DataLoader that resumes after any batch."""
        if stage not in self.shards:
            return []
        seed, decode = None, self.decode
        if stage == "train":  # only training shuffles and augments
            seed, decode = self.seed, replace(self.decode, transform=self.augment)
        shards, columns = self.shards[stage], [decode.input, decode.target]
        sizes = self.batch_size, self.buffer_size, self.num_workers
        return make_shard_loader(shards, columns, decode, *sizes, seed, self.trainer)

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("val")

    def test_dataloader(self) -> Any:
        return self.loader("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Standardize a batch on the training device."""
        if isinstance(batch, Tensor):  # Lightning's summary passes one input through
            return batch
        x, y = batch
        return self.preprocess.to(y.device)(x), y


@dataclass
class Decode:
    """Makes a batch `(x, y)` of undecoded rows, when it is due."""

    input: str
    target: str
    channels: int
    transform: nn.Sequential
    classes: dict[Any, int] = field(default_factory=dict)  # the class number of each value
    shape: tuple[int, ...] = ()  # of an input, where it is known

    def __call__(self, rows: Rows) -> tuple[Tensor, Tensor]:
        x = list(map(self._read_input, rows[KEY], rows[self.input]))
        for key, sample in zip(rows[KEY], x, strict=True):
            if sample.shape != (expected := self.shape or x[0].shape):
                problem = f"its input is {tuple(sample.shape)}, and others are {tuple(expected)}"
                remedy = "end data.train_transforms and data.eval_transforms with a Resize"
                raise InputError(f"{key}: {problem}; {remedy}")
        if self.classes:
            y = torch.tensor([self.classes[value] for value in rows[self.target]])
        else:
            y = torch.tensor(np.asarray(rows[self.target]), dtype=torch.float32)
        return torch.stack(x), y if self.classes or y.ndim > 1 else y[:, None]

    def _read_input(self, key: str, value: Any) -> Tensor:
        """An image `(C, H, W)` uint8, or numbers, after the transforms."""
        if isinstance(value, np.ndarray):
            x = torch.from_numpy(value)
        else:
            try:
                with Image.open(BytesIO(value)) as image:
                    x = pil_to_tensor(convert(image, self.channels))
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError …
                problem = f"cannot be read as an image: {error}; replace it, or set data.input"
                raise InputError(f"{key}: {problem}") from None
        return self.transform(x.float() if x.is_floating_point() else x)  # type: ignore[no-any-return]
