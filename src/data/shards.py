"""Data larger than memory: Parquet or tar shards, read while a net trains on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image

from src.kindling.config import InputError
from src.kindling.data import (
    KEY,
    Rows,
    Spec,
    Stage,
    build_preprocess,
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
        num_workers: processes that read and decode; lowered to 1, 2, 4 or 8. The batches are the
            same for any number.
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
        num_workers: int = 2,
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
        augment, prepare = (
            nn.Sequential(*train_transforms or ()),
            nn.Sequential(*eval_transforms or ()),
        )
        self.decode: dict[Stage, Decode] = {
            "train": Decode(input, target, channels, augment),
            "val": Decode(input, target, channels, prepare),
            "test": Decode(input, target, channels, prepare),
        }
        self.notes: list[str] = []  # printed before training

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "shards"):
            return
        shards, split = split_shards(self.folder, self.split)
        known = self.decode["test"]
        self._spec, found = describe_shards(self.folder, shards, known, self.kind)
        for decode in self.decode.values():
            decode.classes, decode.shape = known.classes, known.shape
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
        trainer, decode = self.trainer, self.decode[stage]
        share = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sizes = self.batch_size, self.buffer_size, self.num_workers
        seed = self.seed if stage == "train" else None  # only training shuffles
        return make_shard_loader(self.shards[stage], decode.columns, decode, *sizes, seed, *share)

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
    """Makes a batch `(x, y)` of undecoded rows, when it is due; the arguments are of `Shards`."""

    input: str
    target: str
    channels: int
    transform: nn.Sequential
    classes: dict[Any, int] = field(default_factory=dict)  # the number of each value
    shape: tuple[int, ...] = ()  # of one input, where it is known

    @property
    def columns(self) -> list[str]:
        return [self.input, self.target]

    def __call__(self, rows: Rows) -> tuple[Tensor, Tensor]:
        return self.read_inputs(rows), self.read_targets(rows)

    def read_inputs(self, rows: Rows) -> Tensor:
        """Images `(B, C, H, W)` uint8 or numbers `(B, …)`, after the transforms."""
        samples = []
        for key, value in zip(rows[KEY], rows[self.input], strict=True):
            x = value if isinstance(value, np.ndarray) else self._decode_image(key, value)
            samples.append(self.transform(torch.as_tensor(x)))
            shape = self.shape or samples[0].shape
            if samples[-1].shape != shape:
                problem = f"is {tuple(samples[-1].shape)}, and others are {tuple(shape)}"
                remedy = "end data.train_transforms and data.eval_transforms with a Resize"
                raise InputError(f"{key}: its input {problem}; {remedy}")
        x = torch.stack(samples)
        return x.float() if x.is_floating_point() else x

    def _decode_image(self, key: str, content: bytes) -> Tensor:
        mode = ImageReadMode.GRAY if self.channels == 1 else ImageReadMode.RGB
        try:
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            image: Tensor = decode_image(encoded, mode, apply_exif_orientation=True)
        except (RuntimeError, ValueError, TypeError) as error:
            problem = f"cannot be decoded as an image: {error}".partition("\n")[0]
            raise InputError(f"{key}: {problem}; replace it, or set data.input") from None
        return image

    def read_targets(self, rows: Rows) -> Tensor:
        """Class numbers `(B,)`, or values `(B, K)`."""
        column = rows[self.target]
        if self.classes:
            return torch.tensor([self.classes[value] for value in list(column)])
        return torch.as_tensor(np.asarray(column, dtype=np.float32)).reshape(len(column), -1)
