"""Your own images: a folder for each class, or a list of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.data_module import DataModule, data_path
from src.kindling.data.dataset import BatchDataset
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import ResizeMode, decode
from src.kindling.data.images.find_images import (
    LeftOut,
    format_left_out,
    index_folder,
    list_images,
    official_splits,
    refuse_unsupported,
    search_paths,
)
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.images.image_list import read_list
from src.kindling.data.images.reading_time import image_statistics, time_reading
from src.kindling.data.images.unreadable import check_readable
from src.kindling.data.samples import Samples, Stage
from src.kindling.data.statistics import Moments
from src.kindling.data.tables.columns import TargetKind, build_target, check_labels
from src.kindling.data.tables.read import TableFile
from src.kindling.data.tables.split_columns import check_split_options, read_split_columns


class ImageFolder(DataModule):
    """Images in `root/<class>/…`, in `root/{train,val,test}/<class>/…`, or named by a list.

    JPEG, PNG, BMP, WebP, TIFF and AVIF of any size, gray or color, become uint8 images of one
    shape; HEIC with the package pillow-heif. Splits may be spelled training, valid, validation, dev
    or testing, in any case.
    Transforms that crop or resize (torchvision's RandomResizedCrop, say) receive each image at its
    own size, others at the common one.

    Args:
        root: the folder; left out, that of the list.
        files: a CSV or Parquet file with the columns `path` (relative to root), `label` and, if
            wanted, `split`.
        target: the column to predict instead of `label`, or several: columns of 0 and 1 are labels,
            and other numbers are values.
        kind: `auto` predicts classes for the folders' names, for `label` and for text, and numbers
            as a table does; `regression` takes folders' names or labels as numbers.
        labels: the separator of several labels in the target, `;` in `red;round`; an empty cell has
            none.
        merge_labels: make labels one that differ only in case or white space.
        group_column: images of one group, such as a patient's, stay in one split. It is a column of
            the list; without one, a regular expression that finds the group in each path.
        time: a column of dates or numbers, or such an expression; the oldest are for training.
        dayfirst: whether 2.1.2023 in that column is January 2; None finds out from days above 12.
        separator, encoding, decimal: of the list; see Table. `space` is any white space.
        size: height and width; left out, what the training transforms give, or else the files'
            median side rounded to a multiple of 8, at most 224.
        channels: 1 or 3; left out, 3 unless all files are gray.
        resize_mode: how an image becomes square: its center cropped, squashed, or padded.
        normalize: `train` takes the statistics of the training split (a sample of 2,048 images,
            cached under data/); with `none`, 0 to 255 become -1 to 1.
        max_pixels: refuse larger images before they are decoded.
        on_error: whether an unreadable image ends the run or is skipped, counted and listed.
        error_limit: the share of unreadable images above which skipping stops.
        cache: `memmap` decodes every image once into a file under data/, which later epochs and
            runs read at memory speed; transforms then receive images at the common shape.
        base: see DataModule.
    """

    def __init__(
        self,
        root: str | None = None,
        files: str | None = None,
        target: str | list[str] | None = None,
        kind: TargetKind = "auto",
        labels: str | None = None,
        merge_labels: bool = False,
        group_column: str | None = None,
        time: str | None = None,
        dayfirst: bool | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        decimal: Literal["point", "comma"] = "point",
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        resize_mode: ResizeMode = "crop",
        normalize: Literal["train", "none"] = "train",
        max_pixels: int = 100_000_000,
        on_error: Literal["error", "skip"] = "error",
        error_limit: float = 0.01,
        cache: Literal["none", "memmap"] = "none",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if size is not None and size < 1:
            raise InputError(f"data.size: expected at least 1, got {size}")
        if root is None and files is None:
            raise InputError("data.root: is not set; add data.root=FOLDER, or data.files=LIST.csv")
        for key, value in (("target", target), ("labels", labels)):
            if value is not None and files is None:
                raise InputError(f"data.{key}: is for a list of files; set data.files")
        self.targets = [target or "label"] if isinstance(target, str | None) else target
        if target is None and kind == "auto":
            kind = "classification"
        check_labels(labels, self.targets, kind)
        check_split_options(group_column, time, dayfirst)
        self.listed = files is not None
        self.file = TableFile(
            str(data_path(files or root or "")),
            separator,
            encoding,
            decimal,
            default_na=False,
            key="data.files",
        )
        self.root = Path(self.file.path).parent if root is None else data_path(root)
        self.target, self.kind, self.labels, self.merge_labels = target, kind, labels, merge_labels
        self.group_column, self.time, self.dayfirst = group_column, time, dayfirst
        self.size, self.channels, self.resize_mode = size, channels, resize_mode
        self.normalize, self.cache = normalize, cache
        self.max_pixels, self.on_error, self.error_limit = max_pixels, on_error, error_limit

    def load(self) -> Samples:
        if self.root.is_file():
            raise InputError(f"{self.root}: is a file; set it to a folder of images (data.root)")
        if not self.root.exists():
            raise InputError(f"{self.root}: no such folder (data.root)")
        rows, left_out = self._read_list() if self.listed else self._index_folder()
        paths = Paths(self.root, rows["path"])
        y, classes = self._read_target(rows)
        channels, size = image_data.inspect_headers(paths)
        common = self.channels or channels, self.size or size, self.resize_mode, self.max_pixels
        images = ImageFiles(paths, *common, self.on_error, self.error_limit)
        if self.on_error == "error":
            check_readable(images)
        split_by = self.group_column, self.time, self.dayfirst
        samples = Samples(
            x=images,
            y=y,
            classes=classes,
            target=", ".join(self.targets) if self.target or not classes else "",
            targets=() if classes or len(self.targets) == 1 else tuple(self.targets),
            official=official_splits(rows["split"]),
            name=paths.__getitem__,
            **read_split_columns(self.file, rows, *split_by, self.notes),
        )
        if self.size is None and self.transforms["train"] is not None:
            first, _ = self.dataset(samples, "train")[(0, 0, torch.tensor([0]))]
            images.size = first.shape[-1]
        if self.cache == "memmap":
            images.packed = image_data.pack(images)
        source = "as set" if self.size else "from the files' headers"
        inside = f" in {len(classes)} classes" if classes else ""
        self.notes.append(
            f"images: {len(images):,} files{inside}, "
            f"{format_left_out(left_out)}; {images.channels} x {images.size} x {images.size} "
            f"({source}; data.size and data.channels set them)"
        )
        return samples

    def _index_folder(self) -> tuple[pd.DataFrame, LeftOut]:
        names, left_out = list_images(self.root)
        if self.on_error == "error":
            refuse_unsupported(self.root, left_out, "convert them, or set data.on_error=skip")
        rows = pd.DataFrame(index_folder(self.root, names, left_out))
        found = search_paths(rows["path"], self.group_column, self.time)
        numbers = pd.to_numeric(rows["label"], errors="coerce")
        if self.kind == "regression" and numbers.notna().all():
            rows["label"] = numbers
        return rows.assign(**found), left_out

    def _read_list(self) -> tuple[pd.DataFrame, LeftOut]:
        columns = {
            "data.target": self.targets,
            "data.group_column": [self.group_column] if self.group_column else [],
            "data.time": [self.time] if self.time else [],
        }
        text = set(columns["data.group_column"])
        if self.labels or (self.kind == "classification" and len(self.targets) == 1):
            text.add(self.targets[0])  # 007 is not 7
        return read_list(self.root, self.file, columns, text, self.notes), {}

    def _read_target(self, rows: pd.DataFrame) -> tuple[Tensor, tuple[str, ...]]:
        """Class numbers, labels or values, and names of classes or labels."""
        columns = [rows[name] for name in self.targets]
        y, classes, notes = build_target(
            self.file, columns, self.kind, self.labels, self.merge_labels, fewest=1
        )
        plain = not self.listed and "look like" not in notes[0]  # class folders need no note
        self.notes += notes[plain:]
        return y, classes

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        if self.cache == "none":
            samples = image_data.keep_own_size(samples, self.transforms[stage])
        return super().dataset(samples, stage)

    def statistics(self, samples: Samples, train: Tensor) -> Moments:
        """Mean and standard deviation of a sample of the training images; cached."""
        images: Any = samples.x
        remedy = "set data.cache=memmap, or save smaller copies"
        seconds = time_reading(self, samples, train, remedy)
        if self.normalize == "none":
            return (127.5,) * images.channels, (127.5,) * images.channels
        return image_statistics(images, train, seconds)

    def final_notes(self) -> list[str]:
        assert isinstance(self.samples.x, ImageFiles)
        bad = self.samples.x.unreadable_paths()
        named = [f"{path} ({self._explain(path)})" for path in bad[:20]] + bad[20:]
        note = f"skipped {len(bad):,} unreadable images: {join_names(named, most=20)}"
        return [note] if bad else []

    def _explain(self, path: str) -> str:
        """Why an image cannot be read."""
        try:
            decode(path, 3, self.max_pixels)
        except InputError as error:
            return str(error).removeprefix(f"{path}: ").partition("; ")[0]
        return "was unreadable during the run"
