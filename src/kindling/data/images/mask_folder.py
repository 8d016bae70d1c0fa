"""Your own images with a mask for each: `root/images` and `root/masks`, matched by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.images import find_images, image_data
from src.kindling.data.images.decode import EXTENSIONS, ResizeMode, make_square, size_of
from src.kindling.data.images.find_images import LeftOut
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.images.image_module import ImageModule
from src.kindling.data.masks import VOID
from src.kindling.data.paths import data_path
from src.kindling.data.samples import Samples
from src.kindling.data.tables.read import TableFile

MASK_EXTENSIONS = frozenset((".png", ".bmp", ".tif", ".tiff"))  # JPEG and WebP change values


class MaskFolder(ImageModule):
    """Images in `root/images`, and in `root/masks` files of the same names with class numbers.

    Masks are PNG, BMP or TIFF with one channel, gray or with a palette; 255 marks ignored
    pixels. Folders `train`, `val` and `test` in both are kept as the splits. Images and masks
    become one square shape together, masks without interpolation.

    Args:
        root: the folder.
        classes: the classes' names; left out, the lines of `root/classes.txt`, or else the values.
        values: the value of each class in the masks; left out, 0, 1, 2 and so on, or 0 and 255
            where masks have only these two.
        resize_mode, base: see ImageModule.
    """

    def __init__(
        self,
        root: str,
        classes: list[str] | None = None,
        values: list[int] | None = None,
        resize_mode: ResizeMode = "squash",
        **base: Any,
    ) -> None:
        super().__init__(resize_mode=resize_mode, **base)
        if values and (len(set(values)) < len(values) or not set(values) <= set(range(256))):
            raise InputError(f"data.values: expected different numbers from 0 to 255, got {values}")
        self.root, self.classes, self.values = data_path(root), classes, values

    def load(self) -> Samples:
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder (data.root)")
        left_out: LeftOut = {}
        paths, masks = match(self.root, left_out)
        present = mask_values(paths, masks)
        classes, values = self._classes(masks, present)
        images = self.open_images(paths)
        unreadable = image_data.find_unreadable(images, whole=False)
        image_data.refuse([*unreadable.values()], "unreadable images", most=20)
        files = f"{len(images):,} files with masks of {len(classes)} classes"
        files = f"{files}, {find_images.format_left_out(left_out)}"
        shape = f"{images.channels} x {images.size} x {images.size}"
        self.notes.append(f"images: {files}; {shape} (data.size and data.channels set them)")
        counts = zip(classes, present[:, values].sum(axis=0), strict=True)
        named = [f"{name} ({count:,})" for name, count in counts]
        self.notes.append(f"classes (number of masks): {join_names(named, most=10)}")
        names = [paths[i] for i in range(len(paths))]
        folders = [name.partition(os.sep)[0] for name in names]
        staged = find_images.are_split_folders(self.root / "images", folders)
        found = pd.DataFrame(self.split_by.search(names))
        common = images.size, self.resize_mode, self.max_pixels
        return Samples(
            x=images,
            y=MaskFiles(masks, 1, *common, values=values),
            classes=classes,
            official=find_images.official_splits(folders) if staged else {},
            target="mask",
            name=paths.__getitem__,
            **self.split_by.read(TableFile(str(self.root)), found, self.notes),
        )

    def _classes(self, masks: Paths, present: Any) -> tuple[tuple[str, ...], list[int]]:
        """The classes' names and values, by the settings and the values `(N, 256)` of each mask."""
        names, values, source = self.classes, self.values, "data.classes"
        listed = self.root / "classes.txt"
        if names is None and listed.is_file():
            lines = listed.read_text("utf-8").splitlines()
            names, source = [line.strip() for line in lines if line.strip()], str(listed)
        found = np.flatnonzero(present.any(axis=0)).tolist()
        if values is None and found == [0, 255] and (names is None or len(names) == 2):
            values = found
            self.notes.append("masks: 0 and 255 are the two classes (data.values sets them)")
        if values is None:
            highest = max((value for value in found if value != VOID), default=0)
            values = list(range(highest + 1 if names is None else len(names)))
            used = [value for value in found if value in values]
            if names is None and 2 * len(used) < len(values):
                problem = f"masks have {len(used)} of the values 0 to {highest}"
                remedy = f"set data.values=[{','.join(map(str, used))}] if each is a class"
                raise InputError(f"{self.root}: {problem}; {remedy}, or data.classes to name all")
        numbers = [str(value) for value in values]
        names = numbers if names is None else names
        if len(names) != len(values):
            problem = f"has {len(names)} names, and data.values {len(values)} values"
            raise InputError(f"{source}: {problem}; set one value for each name")
        if not 2 <= len(names) <= VOID:
            problem = f"{len(names)} classes in the masks; 2 to {VOID} are expected"
            raise InputError(f"{self.root}: {problem} ({source})")
        others = present & ~np.isin(np.arange(256), [*values, VOID])
        wrong = []
        for i in np.flatnonzero(others.any(axis=1)).tolist():
            unknown = [str(value) for value in np.flatnonzero(others[i])]
            wrong.append(f"{masks.path(i)} ({join_names(unknown, most=3)})")
        if wrong:
            known = f"the {len(names)} classes ({join_names(numbers)}; 255 is ignored)"
            problem = f"masks with other values than {known}: {join_names(wrong, most=3)}"
            raise InputError(f"{problem}; correct them, or name all classes ({source})")
        return tuple(names), values


def match(root: Path, left_out: LeftOut) -> list[Paths]:
    """The images and their masks, in the same order; `left_out` receives all other files."""
    lines: list[str] = []
    kinds = {"images": EXTENSIONS, "masks": MASK_EXTENSIONS}
    found = {name: _files_by_stem(root / name, kinds[name], lines, left_out) for name in kinds}
    for name, other in [("images", "masks"), ("masks", "images")] if not lines else []:
        files = found[name]
        if unmatched := [files[stem] for stem in sorted(files.keys() - found[other])]:
            problem = f"{len(unmatched):,} of {len(files):,} files have none of the same name"
            problem += f" in {other}: {join_names(unmatched)}"
            lines.append(f"{root / name}: {problem}; add them, or remove these")
    if lines:
        raise InputError(lines)
    return [Paths(root / name, [files[k] for k in sorted(files)]) for name, files in found.items()]


def _files_by_stem(
    folder: Path, extensions: frozenset[str], lines: list[str], left_out: LeftOut
) -> dict[str, str]:
    """A folder's files by their names without extension; problems are added to the lines."""
    if not folder.is_dir():
        expected = f"{folder.parent}/images and {folder.parent}/masks"
        lines.append(f"{folder}: no such folder; expected {expected} (data.root)")
        return {}
    found: dict[str, str] = {}
    lossy, twins = [], []
    names, others = find_images.list_images(folder)
    find_images.refuse_unsupported(folder, others, "or convert them")
    for reason, files in others.items():
        left_out.setdefault(reason, []).extend(files)
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension.lower() not in extensions:
            lossy.append(name)
        elif found.setdefault(stem, name) != name:
            twins.append(f"{found[stem]} and {name}")
    if lossy:
        remedy = "save masks as PNG, BMP or TIFF"
        lines.append(f"{folder}: lossy file formats: {join_names(lossy)}; {remedy}")
    elif not found:
        lines.append(f"{folder}: no {folder.name} ({', '.join(sorted(extensions))})")
    if twins:
        problem = f"files that differ only in extension: {join_names(twins)}"
        lines.append(f"{folder}: {problem}; remove one of each")
    return found


@dataclass(eq=False)
class MaskFiles(ImageFiles):
    """Masks in files, by number: `(B, size, size)` uint8 for an index tensor, one mask for an int.

    Args:
        values: the value of each class in the files; every other value becomes VOID.
    """

    values: Sequence[int] = ()

    def _read(self, i: int, own_size: bool) -> Tensor:
        class_of = np.full(256, VOID, dtype=np.uint8)
        class_of[list(self.values)] = np.arange(len(self.values))
        mask = Image.fromarray(class_of[read_mask(self.paths.path(i))])
        if not own_size:
            nearest = Image.Resampling.NEAREST
            mask = make_square(mask, self.size, self.resize_mode, nearest, VOID)
        return torch.from_numpy(np.array(mask))


def mask_values(images: Paths, masks: Paths) -> Any:
    """Which of the 256 values each mask has, `(N, 256)` bool; cached."""

    def inspect(i: int) -> Any:
        return _inspect_mask(images.path(i), masks.path(i))

    def compute() -> Any:
        found = image_data.inspect_files(inspect, len(masks))
        image_data.refuse([line for line in found if isinstance(line, str)], "masks", most=5)
        return np.stack(found)

    key = images.fingerprint(masks.fingerprint())
    return image_data.load_or_compute("masks", key, compute)


def _inspect_mask(image_path: str, mask_path: str) -> Any:
    """Which of the 256 values a mask has, `(256,)` bool; or a line on a problem."""
    try:
        mask = read_mask(mask_path)
        width, height = size_of(image_path)
    except InputError as error:
        return str(error)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError …
        return f"{image_path}: cannot be read as an image: {error}"
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels"
        image = f"its image {Path(image_path).name} has {width} x {height}"
        return f"{mask_path}: {size}, and {image}; make them equal"
    return np.bincount(mask.ravel(), minlength=256) > 0


def read_mask(path: str) -> Any:
    """The values of a mask file, `(H, W)` uint8."""
    remedy = "save one channel with a class number from 0 to 255 for each pixel"
    try:
        with Image.open(path) as image:
            mode, mask = image.mode, np.asarray(image)  # of a palette the numbers, not the colors
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError …
        reason = str(error).replace(f" '{path}'", "")
        raise InputError(f"{path}: cannot be read as a mask: {reason}") from None
    if mode not in ("L", "P", "1") and not mode.startswith("I"):
        raise InputError(f"{path}: has colors ({mode}); {remedy}")
    if mask.min() < 0 or mask.max() > 255:  # in 16 or 32 bits
        raise InputError(f"{path}: has values from {mask.min()} to {mask.max()}; {remedy}")
    return mask.astype(np.uint8)
