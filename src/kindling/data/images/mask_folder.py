"""Your own images with a mask for each: `root/images` and `root/masks`, matched by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError, join_names
from src.kindling.data.data_module import DataModule, data_path
from src.kindling.data.dataset import BatchDataset
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import EXTENSIONS, ResizeMode, make_square
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.images.unreadable import check_readable
from src.kindling.data.masks import VOID
from src.kindling.data.samples import Samples, Stage
from src.kindling.data.statistics import Moments

MASK_EXTENSIONS = frozenset((".png", ".bmp", ".tif", ".tiff"))  # JPEG and WebP change values


class MaskFolder(DataModule):
    """Images in `root/images`, and in `root/masks` files of the same names with class numbers.

    Masks are PNG, BMP or TIFF with one channel, gray or with a palette; 255 marks ignored
    pixels. Folders `train`, `val` and `test` in both are kept as the splits. Images and masks
    become one square shape together, masks without interpolation.

    Args:
        root: the folder.
        classes: the classes' names; left out, the lines of `root/classes.txt`, or else the values.
        values: the value of each class in the masks; left out, 0, 1, 2 and so on, or 0 and 255
            where masks have only these two.
        size: height and width; left out, the images' median side rounded to a multiple of 8, at
            most 224.
        channels: 1 or 3; left out, 3 unless all images are gray.
        resize_mode: how an image becomes square: squashed, padded, or its center cropped.
        max_pixels: refuse larger images before they are decoded.
        base: see DataModule.
    """

    def __init__(
        self,
        root: str,
        classes: list[str] | None = None,
        values: list[int] | None = None,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        resize_mode: ResizeMode = "squash",
        max_pixels: int = 100_000_000,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if size is not None and size < 1:
            raise InputError(f"data.size: expected at least 1, got {size}")
        if values and (len(set(values)) < len(values) or not set(values) <= set(range(256))):
            raise InputError(f"data.values: expected different numbers from 0 to 255, got {values}")
        if classes is not None and values is not None and len(classes) != len(values):
            expected = f"expected one for each of {len(classes)} classes"
            raise InputError(f"data.values: {expected}, got {len(values)}")
        self.root, self.classes, self.values = data_path(root), classes, values
        self.size, self.channels = size, channels
        self.resize_mode, self.max_pixels = resize_mode, max_pixels

    def load(self) -> Samples:
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder (data.root)")
        images, masks = match(self.root)
        classes, values = self._classes(masks, mask_values(images, masks))
        channels, size = image_data.inspect_headers(images)
        channels, size = self.channels or channels, self.size or size
        self.notes.append(
            f"images: {len(images):,} files with masks of {len(classes)} classes "
            f"({join_names(classes)}); {channels} x {size} x {size} "
            "(data.size and data.channels set them)"
        )
        folders = [images[i].partition(os.sep)[0] for i in range(len(images))]
        staged = image_data.are_split_folders(folders)
        common = size, self.resize_mode, self.max_pixels
        files = ImageFiles(images, channels, *common)
        check_readable(files)
        return Samples(
            x=files,
            y=MaskFiles(masks, 1, *common, values=values),
            classes=classes,
            official=image_data.official_splits(folders) if staged else {},
            target="mask",
            name=images.__getitem__,
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
        numbers = [str(value) for value in values]
        names = numbers if names is None else names
        if len(names) != len(values):
            problem = f"has {len(names)} names, and data.values {len(values)} values"
            raise InputError(f"{source}: {problem}; set one value for each name")
        if not 2 <= len(names) <= VOID:
            problem = f"{len(names)} classes in the masks; 2 to {VOID} are expected"
            raise InputError(f"{self.root}: {problem} ({source})")
        present[:, [*values, VOID]] = False
        wrong = []
        for i in np.flatnonzero(present.any(axis=1)).tolist():
            unknown = [str(value) for value in np.flatnonzero(present[i])]
            wrong.append(f"{masks.path(i)} ({join_names(unknown, most=3)})")
        if wrong:
            known = f"the {len(names)} classes ({join_names(numbers)}; 255 is ignored)"
            raise InputError(
                f"masks with other values than {known}: {join_names(wrong, most=3)}; "
                f"correct them, or name all classes ({source})"
            )
        return tuple(names), values

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        samples = image_data.keep_own_size(samples, self.transforms[stage])
        return super().dataset(samples, stage)

    def statistics(self, samples: Samples, train: Tensor) -> Moments:
        """Mean and standard deviation of a sample of the training images; cached."""
        return image_data.image_statistics(samples.x, train)


def match(root: Path) -> tuple[Paths, Paths]:
    """The images and their masks, in the same order.

    Raises:
        InputError: naming the files, when one lacks the other.
    """
    lines: list[str] = []
    images = _files_by_stem(root / "images", EXTENSIONS, lines)
    masks = _files_by_stem(root / "masks", MASK_EXTENSIONS, lines)
    pairs = [("images", images, "masks", masks), ("masks", masks, "images", images)]
    for name, files, other, others in [] if lines else pairs:
        if unmatched := [files[stem] for stem in sorted(files.keys() - others)]:
            lines.append(
                f"{root / name}: {len(unmatched):,} of {len(files):,} files have none of the same "
                f"name in {other}: {join_names(unmatched)}; add them, or remove these"
            )
    if lines:
        raise InputError(lines)
    stems = sorted(images)
    return (
        Paths(root / "images", [images[stem] for stem in stems]),
        Paths(root / "masks", [masks[stem] for stem in stems]),
    )


def _files_by_stem(folder: Path, extensions: frozenset[str], lines: list[str]) -> dict[str, str]:
    """A folder's files by their names without extension; problems are added to the lines."""
    if not folder.is_dir():
        expected = f"{folder.parent}/images and {folder.parent}/masks"
        lines.append(f"{folder}: no such folder; expected {expected} (data.root)")
        return {}
    found: dict[str, str] = {}
    lossy, twins = [], []
    for name in image_data.list_images(folder):
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
    """Which of the 256 values each mask has, `(N, 256)` bool; cached.

    Raises:
        InputError: naming the files, when a mask is unreadable, or differs in size from its image.
    """

    def compute() -> Any:
        def inspect(i: int) -> Any:
            return _inspect_mask(images.path(i), masks.path(i))

        with ThreadPoolExecutor(usable_cores()) as pool:
            found = list(pool.map(inspect, range(len(masks))))
        problems = [problem for problem in found if isinstance(problem, str)]
        if len(problems) > 5:
            problems[5:] = [f"and {len(problems) - 5:,} more masks"]
        if problems:
            raise InputError(problems)
        return np.stack(found)

    key = images.fingerprint(masks.fingerprint())
    return image_data.load_or_compute("masks", key, compute)


def _inspect_mask(image_path: str, mask_path: str) -> Any:
    """Which of the 256 values a mask has, `(256,)` bool; or a line on a problem."""
    try:
        mask = read_mask(mask_path)
        width, height = image_data.size_of(image_path)
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
    """The values of a mask file, `(H, W)` uint8.

    Raises:
        InputError: naming the file, when it is missing, damaged, or has more than one channel.
    """
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
