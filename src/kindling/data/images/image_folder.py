"""Your own images: a folder for each class, or a list of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.data_module import DataModule, data_path
from src.kindling.data.dataset import BatchDataset
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import EXTENSIONS, ResizeMode
from src.kindling.data.images.image_data import SPLITS, ImageFiles, Paths
from src.kindling.data.images.unreadable import check_readable
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.samples import Samples, Stage
from src.kindling.data.statistics import Moments


class ImageFolder(DataModule):
    """Images in `root/<class>/…`, in `root/{train,val,test}/<class>/…`, or named by a list.

    JPEG, PNG, BMP, WebP and TIFF of any size, gray or color, become uint8 images of one shape.
    Transforms that crop or resize (torchvision's RandomResizedCrop, say) receive each image at its
    own size, others at the common one.

    Args:
        root: the folder.
        files: a CSV with the columns `path` (relative to root), `label` and, if wanted, `split`.
        labels: the separator of several labels in that column, `;` in `red;round`; an empty cell
            has none.
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
        root: str,
        files: str | None = None,
        labels: str | None = None,
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
        if labels is not None and not (files and labels):
            raise InputError("data.labels: separates labels in a list of files; set data.files")
        self.root, self.files, self.labels = data_path(root), files and data_path(files), labels
        self.size, self.channels, self.resize_mode = size, channels, resize_mode
        self.normalize, self.cache = normalize, cache
        self.max_pixels, self.on_error, self.error_limit = max_pixels, on_error, error_limit

    def load(self) -> Samples:
        if self.root.is_file():
            raise InputError(f"{self.root}: is a file; set it to a folder of images (data.root)")
        if not self.root.exists():
            raise InputError(f"{self.root}: no such folder (data.root)")
        several = bool(self.labels)
        rows = read_list(self.root, self.files, several) if self.files else index_folder(self.root)
        paths = Paths(self.root, rows["path"])
        if self.labels:
            y, classes = as_labels([parted(text, self.labels) for text in rows["label"]])
        else:
            names, codes = np.unique(rows["label"], return_inverse=True)
            y, classes = torch.from_numpy(codes), tuple(names.tolist())
        if not classes:
            raise InputError(f"{self.files}: no row has a label; fill in labels (data.labels)")
        channels, size = image_data.inspect_headers(paths)
        common = self.channels or channels, self.size or size, self.resize_mode, self.max_pixels
        images = ImageFiles(paths, *common, self.on_error, self.error_limit)
        if self.on_error == "error":
            check_readable(images)
        official = image_data.official_splits(rows["split"])
        samples = Samples(images, y, classes, official=official, name=paths.__getitem__)
        if self.size is None and self.transforms["train"] is not None:
            first, _ = self.dataset(samples, "train")[(0, 0, torch.tensor([0]))]
            images.size = first.shape[-1]
        if self.cache == "memmap":
            images.packed = image_data.pack(images)
        source = "as set" if self.size else "from the files' headers"
        self.notes.append(
            f"images: {len(images):,} files in {len(classes)} classes; "
            f"{images.channels} x {images.size} x {images.size} "
            f"({source}; data.size and data.channels set them)"
        )
        return samples

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        if self.cache == "none":
            samples = image_data.keep_own_size(samples, self.transforms[stage])
        return super().dataset(samples, stage)

    def statistics(self, samples: Samples, train: Tensor) -> Moments:
        """Mean and standard deviation of a sample of the training images; cached."""
        images: Any = samples.x
        if self.normalize == "none":
            return (127.5,) * images.channels, (127.5,) * images.channels
        return image_data.image_statistics(images, train)

    def final_notes(self) -> list[str]:
        assert isinstance(self.samples.x, ImageFiles)
        bad = self.samples.x.unreadable_paths()
        note = f"skipped {len(bad):,} unreadable images: {join_names(bad, most=20)}"
        return [note] if bad else []


def index_folder(root: Path) -> Mapping[str, Sequence[str]]:
    """The images in class folders: `path` relative to the root, `label` and `split` (or "").

    Raises:
        InputError: when there are none, or a class folder is empty.
    """
    staged = image_data.are_split_folders(folder.name for folder in root.glob("[!.]*/"))
    depth = 2 if staged else 1
    names = image_data.list_images(root)
    rows = sorted(name.split(os.sep, depth) for name in names if name.count(os.sep) >= depth)
    if not rows:
        kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
        hint = f"; move its images, such as {names[0]}, into class folders" if names else ""
        raise InputError(f"{root}: no images in <class>/ folders ({kinds}){hint} (data.root)")
    used = {root.joinpath(*row[:depth]) for row in rows}
    folders = sorted(root.glob("[!.]*/[!.]*/" if staged else "[!.]*/"))
    if empty := [str(folder) for folder in folders if folder not in used]:
        problem = f"class folders without images: {join_names(empty)}"
        raise InputError(f"{problem}; add some, or remove the folder")
    return {
        "path": [os.path.join(*row) for row in rows],
        "label": [row[depth - 1] for row in rows],
        "split": [row[0] if staged else "" for row in rows],
    }


def read_list(root: Path, files: Path, several_labels: bool) -> Mapping[str, Sequence[str]]:
    """What `index_folder` gives, from a CSV with the columns `path`, `label` and maybe `split`.

    Raises:
        InputError: naming the line, when a column, a file or a split is missing or unknown.
    """
    import pandas as pd

    try:
        rows = pd.read_csv(
            files, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        ).fillna("")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{files}: cannot be read: {error} (data.files)") from None
    rows.columns = rows.columns.str.strip()
    for needed in ("path", "label"):
        if needed not in rows:
            hint, names = did_you_mean(needed, rows.columns), ", ".join(rows.columns)
            raise InputError(
                f"{files}: has no column '{needed}'{hint} (its columns: {names}); add it"
            )
    if rows.empty:
        raise InputError(f"{files}: has a header and no rows; add some (data.files)")
    rows["split"] = rows["split"].str.strip().str.lower() if "split" in rows else ""
    found = zip(rows["path"], rows["label"], rows["split"], strict=True)
    for line, (path, label, split) in enumerate(found, start=2):
        problem = ""
        if not path or not (label or several_labels):
            problem = f"{'label' if path else 'path'} is empty; fill it in"
        elif not (root / path).is_file():
            problem = f"{root / path}: no such file; paths are relative to data.root"
        elif split and split not in SPLITS:
            problem = f"split '{split}'{did_you_mean(split, SPLITS)} (train, val or test)"
        if problem:
            raise InputError(f"{files}:{line}: {problem}")
    return {name: rows[name].tolist() for name in ("path", "label", "split")}
