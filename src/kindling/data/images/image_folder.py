"""Your own pictures: a folder for each class, or a list of files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError, counted, did_you_mean
from src.kindling.data.batch import BatchDataset, Samples, Stage
from src.kindling.data.data_module import DATA, DataModule, data_path
from src.kindling.data.images.decode import EXTENSIONS, Fit
from src.kindling.data.images.image_data import ImageFiles, Paths, headers, kept_statistics, resizes
from src.kindling.data.images.pack import pack
from src.kindling.data.labels import as_labels, parted
from src.kindling.data.spec import Spec

STAGE_FOLDERS: dict[str, Stage] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Headers are taken from a sample of the files: enough to be sure, and quick on any folder.
HEADERS = 1000


class ImageFolder(DataModule):
    """Pictures in `root/<class>/…`, in `root/{train,val,test}/<class>/…`, or named by a list.

    JPEG, PNG, BMP, WebP and TIFF of any size, grey or colour, become uint8 images of one shape. Transforms that crop
    or resize (torchvision's RandomResizedCrop, say) receive each picture at its own size, others at the common one.

    Args:
        root: the folder.
        files: a CSV with the columns `path` (relative to root), `label` and, if wanted, `split`.
        labels: what parts several labels in that column, `;` in `red;round`; an empty cell has none.
        size: height and width; left out, what the training transforms give, or else the files' median side
            rounded to a multiple of 8, at most 224.
        channels: 1 or 3; left out, 3 unless all files are grey.
        fit: how a picture comes to a square: its centre is cropped, it is squashed, or padded.
        normalize: whether the statistics are those of the training split (a sample of 2,048 pictures, kept under
            data/), or none: 0 to 255 become -1 to 1.
        max_pixels: larger pictures are refused before they are decoded.
        on_error: whether an unreadable picture ends the run or is skipped, counted and listed.
        error_limit: the share of unreadable pictures above which skipping stops.
        cache: `memmap` decodes every picture once into a file under data/, from which later epochs and runs read at
            the speed of memory; transforms then receive pictures at the common shape.
        base: see DataModule.
    """

    def __init__(
        self,
        root: str,
        files: str | None = None,
        labels: str | None = None,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Fit = "crop",
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
        self.root = data_path(root)
        self.files = data_path(files) if files else None
        if labels is not None and not (files and labels):
            raise InputError(
                "data.labels: parts the labels of a list of files, at what stands there; give data.files too"
            )
        self.labels = labels
        self.size, self.channels, self.fit = size, channels, fit
        self.normalize = normalize
        self.cache = cache
        self.max_pixels, self.on_error, self.error_limit = max_pixels, on_error, error_limit

    def load(self) -> Samples:
        if not self.root.exists():
            raise InputError(f"{self.root}: no such folder (data.root)")
        if not self.root.is_dir():
            raise InputError(f"{self.root}: is a file; data.root is the folder that holds the pictures")
        paths, labels, classes, official = (
            read_list(self.root, self.files, self.labels) if self.files else index_folder(self.root)
        )

        sampled = np.linspace(0, len(paths) - 1, min(len(paths), HEADERS)).astype(int).tolist()
        found_channels, found_size = headers(paths, dict.fromkeys(sampled))
        channels = self.channels or found_channels
        images = ImageFiles(paths, channels, self.size or found_size, self.fit, whole=False, max_pixels=self.max_pixels,
                            on_error=self.on_error, error_limit=self.error_limit)  # fmt: skip
        samples = Samples(x=images, y=labels, classes=classes, official=official, name=paths.__getitem__)
        if self.size is None and self.transforms["train"] is not None:
            images.size = self._size_after_transforms(samples)
        if self.cache == "memmap":
            images.packed = pack(images, DATA / "cache", processes=usable_cores())
        where = f"from the headers of {len(dict.fromkeys(sampled)):,} files" if self.size is None else "as set"
        self.notes.append(f"images: {len(paths):,} files in {len(classes)} classes; {channels} x {images.size} x "
                          f"{images.size} ({where}; data.size and data.channels set them)")  # fmt: skip
        return samples

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        """As the base class has it; pictures keep their own size for transforms that crop or resize."""
        transform = self.transforms[stage]
        if transform is not None and any(map(resizes, transform)) and self.cache == "none":
            whole = ImageFiles.__new__(ImageFiles)
            whole.__dict__.update(samples.x.__dict__, whole=True)  # shares the paths and the list of unreadable files
            samples = replace(samples, x=whole)
        return super().dataset(samples, stage)

    def describe(self, samples: Samples, train: Tensor) -> Spec:
        spec = super().describe(samples, train)
        if self.normalize == "none":
            return replace(spec, mean=(127.5,) * len(spec.mean), std=(127.5,) * len(spec.std))
        return spec

    def statistics(self, samples: Samples, train: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of a sample of the training pictures; kept, since decoding takes a while."""
        assert isinstance(samples.x, ImageFiles)
        if self.normalize == "none":
            return (0.0,) * samples.x.channels, (1.0,) * samples.x.channels
        return kept_statistics(samples.x, train)

    def final_notes(self) -> list[str]:
        images = self.samples.x
        assert isinstance(images, ImageFiles)
        bad = [images.paths.path(i) for i in torch.nonzero(images.unreadable).flatten().tolist()]
        return [f"skipped {len(bad):,} unreadable pictures: {counted(bad, most=20)}"] if bad else []

    def _size_after_transforms(self, samples: Samples) -> int:
        shape = self.dataset(samples, "train")[(0, 0, torch.tensor([0]))].x.shape
        return int(shape[-1])


def index_folder(root: Path) -> tuple[Paths, Tensor, tuple[str, ...], dict[Stage, Tensor]]:
    """The pictures of a folder: their paths, class numbers, class names, and the splits that folders define.

    Raises:
        InputError: when there are none, or a class folder is empty.
    """
    folders = _folders(root)
    staged = (
        bool(folders) and all(name.lower() in STAGE_FOLDERS for name in folders) and "train" in map(str.lower, folders)
    )
    parts = {name: STAGE_FOLDERS[name.lower()] for name in folders} if staged else {"": None}
    names: list[str] = []
    where: list[tuple[str, Stage | None, int]] = []  # class, stage, number of files
    empty: list[str] = []
    for part, stage in parts.items():
        for label in _folders(root / part):
            found = sorted(_pictures(root, os.path.join(part, label)))
            if not found:
                empty.append(str(root / part / label))
            names += found
            where.append((label, stage, len(found)))
    if not names:
        loose = next(_pictures(root, ""), None)
        hint = f"; it holds pictures itself ({loose}), but not in a folder for each class" if loose else ""
        kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
        raise InputError(f"{root}: no pictures in <class>/ folders ({kinds}){hint} (data.root)")
    if empty:
        raise InputError(f"class folders without pictures: {counted(empty)}; add some, or remove the folder")
    classes = tuple(sorted({label for label, _, _ in where}))
    number = {label: i for i, label in enumerate(classes)}
    counts = torch.tensor([count for _, _, count in where])
    labels = torch.repeat_interleave(torch.tensor([number[label] for label, _, _ in where]), counts)
    stages = [stage for _, stage, _ in where]
    official: dict[Stage, Tensor] = {}
    for stage in dict.fromkeys(stages):
        # Without folders for validation or test, they are cut from what is for training.
        if stage is not None and (stage != "train" or {"val", "test"} <= set(stages)):
            inside = torch.repeat_interleave(torch.tensor([one == stage for one in stages]), counts)
            official[stage] = torch.nonzero(inside).flatten()
    return Paths(root, names), labels, classes, official


def read_list(
    root: Path, files: Path, parted_by: str | None = None
) -> tuple[Paths, Tensor, tuple[str, ...], dict[Stage, Tensor]]:
    """What `index_folder` gives, from a CSV with `path`, `label` and, if wanted, `split`; or labels `(N, K)`, 0 or 1.

    Raises:
        InputError: naming the line, when a column, a file or a split is not there.
    """
    try:
        with files.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            for needed in ("path", "label"):
                if needed not in header:
                    raise InputError(f"{files}: has no column '{needed}'{did_you_mean(needed, header)} "
                                     f"(its columns: {', '.join(header) or 'none'})")  # fmt: skip
            reader.fieldnames = header
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{files}: cannot be read: {error} (data.files)") from None
    if not rows:
        raise InputError(f"{files}: has a header and no rows (data.files)")
    official: dict[Stage, list[int]] = {}
    for i, row in enumerate(rows):
        line = f"{files}:{i + 2}"
        if not row["path"] or not (row["label"] or parted_by):
            raise InputError(f"{line}: {'path' if not row['path'] else 'label'} is empty")
        if not (root / row["path"]).is_file():
            raise InputError(f"{line}: {root / row['path']}: no such file; paths are relative to data.root")
        if split := (row.get("split") or "").strip().lower():
            if split not in STAGE_FOLDERS:
                raise InputError(f"{line}: split '{split}'{did_you_mean(split, STAGE_FOLDERS)} (train, val or test)")
            official.setdefault(STAGE_FOLDERS[split], []).append(i)
    if "train" in official and not {"val", "test"} <= set(official):
        del official["train"]  # validation or test are cut from it
    if parted_by:
        labels, classes = as_labels([parted(row["label"] or "", parted_by) for row in rows])
        if not classes:
            raise InputError(f"{files}: no row has a label (data.labels)")
    else:
        classes = tuple(sorted({row["label"] for row in rows}))
        number = {label: i for i, label in enumerate(classes)}
        labels = torch.tensor([number[row["label"]] for row in rows])
    return Paths(root, [row["path"] for row in rows]), labels, classes, {
        stage: torch.tensor(index) for stage, index in official.items()}  # fmt: skip


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _pictures(root: Path, folder: str) -> Iterator[str]:
    """The pictures below a folder, relative to root, at any depth."""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if folder:
                    yield from _pictures(root, os.path.join(folder, entry.name))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield os.path.join(folder, entry.name)
