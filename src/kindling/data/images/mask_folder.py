"""Your own pictures with a mask for each: `root/images` and `root/masks`, matched by their names."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import BatchDataset, Samples, Stage
from src.kindling.data.data_module import DATA, DataModule, data_path
from src.kindling.data.images.decode import EXTENSIONS, Fit, fit_to
from src.kindling.data.images.image_data import ImageFiles, Paths, headers, kept_statistics, resizes, size_of
from src.kindling.data.masks import VOID

# What keeps a mask's values; JPEG does not.
MASKS = frozenset((".png", ".bmp", ".tif", ".tiff"))
STAGES_OF: dict[str, Stage] = {"train": "train", "val": "val", "test": "test"}


class MaskFolder(DataModule):
    """Pictures in `root/images`, and in `root/masks` files of the same names whose pixels are class numbers.

    Masks are PNG, BMP or TIFF with one channel: grey or a palette. 255 stands for pixels that do not count. Folders
    `train`, `val` and `test` within both are kept as the splits. Pictures and masks become one square shape together,
    masks without blending.

    Args:
        root: the folder.
        classes: the classes' names; left out, the lines of `root/classes.txt`, or else the numbers that the masks hold.
        values: what stands in the masks for each class; left out, 0, 1, 2 and so on, or 0 and 255 where masks hold only
            these two.
        size: height and width; left out, the pictures' median side rounded to a multiple of 8, at most 224.
        channels: 1 or 3; left out, 3 unless all pictures are grey.
        fit: how a picture comes to a square: it is squashed, padded, or its centre is cropped.
        max_pixels: larger pictures are refused before they are decoded.
        base: see DataModule.

    Raises:
        InputError: naming the files, when pictures and masks do not match in name or size, or a mask holds other values.
    """

    def __init__(
        self,
        root: str,
        classes: list[str] | None = None,
        values: list[int] | None = None,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Fit = "squash",
        max_pixels: int = 100_000_000,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if size is not None and size < 1:
            raise InputError(f"data.size: expected at least 1, got {size}")
        if values is not None and (len(set(values)) < len(values) or not all(0 <= value <= 255 for value in values)):
            raise InputError(f"data.values: expected different numbers from 0 to 255, got {values}")
        if classes is not None and values is not None and len(classes) != len(values):
            raise InputError(f"data.values: expected one for each of {len(classes)} classes, got {len(values)}")
        self.root, self.classes, self.values = data_path(root), classes, values
        self.size, self.channels, self.fit, self.max_pixels = size, channels, fit, max_pixels

    def load(self) -> Samples:
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder (data.root)")
        images, masks = match(self.root)
        levels = levels_of(images, masks)
        classes, values = self._classes(masks, levels)
        channels, size = headers(images, np.linspace(0, len(images) - 1, min(len(images), 1000)).astype(int).tolist())
        channels, size = self.channels or channels, self.size or size
        files = ImageFiles(images, channels, size, self.fit, whole=False, max_pixels=self.max_pixels, on_error="error",
                           error_limit=0.0)  # fmt: skip
        self.notes.append(f"images: {len(images):,} files with masks of {len(classes)} classes ({counted(classes)}); "
                          f"{channels} x {size} x {size} (data.size and data.channels set them)")  # fmt: skip
        folders = [images[i].partition(os.sep)[0] for i in range(len(images))]
        official: dict[Stage, Tensor] = {}
        if set(folders) <= {*STAGES_OF} and "train" in folders:
            # Without folders for validation or test, they are cut from what is for training.
            official = {stage: torch.tensor([i for i, folder in enumerate(folders) if folder == name])
                        for name, stage in STAGES_OF.items()
                        if name in folders and (name != "train" or {*folders} == {*STAGES_OF})}  # fmt: skip
        return Samples(x=files, y=MaskFiles(masks, values, size, self.fit, whole=False), classes=classes,
                       official=official, target="mask", name=images.__getitem__)  # fmt: skip

    def _classes(self, masks: Paths, levels: Any) -> tuple[tuple[str, ...], list[int]]:
        """The classes' names and their values in the masks, from what is configured and from what the masks hold."""
        names, values, source = self.classes, self.values, "data.classes"
        listed = self.root / "classes.txt"
        if names is None and listed.is_file():
            names, source = (
                [line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip()],
                str(listed),
            )
        found = np.flatnonzero(levels.any(axis=0)).tolist()
        if values is None and found == [0, 255] and (names is None or len(names) == 2):
            values = found
            self.notes.append("masks: 0 and 255 are the two classes (data.values sets them)")
        if values is None:
            values = list(
                range(len(names) if names is not None else max([v for v in found if v != VOID], default=0) + 1)
            )
        names = names if names is not None else [str(value) for value in values]
        if len(names) != len(values):
            raise InputError(f"{source}: has {len(names)} names, and data.values {len(values)} values")
        if len(names) < 2 or len(names) > VOID:
            raise InputError(f"{self.root}: {len(names)} classes in the masks; 2 to {VOID} are expected ({source})")
        beyond = [value for value in found if value not in values and value != VOID]
        if beyond:
            wrong = np.flatnonzero(levels[:, beyond].any(axis=1))
            told = [
                f"{masks.path(i)} ({counted([str(v) for v in beyond if levels[i, v]], most=3)})" for i in wrong.tolist()
            ]
            raise InputError(f"masks with values of none of the {len(names)} classes ({counted([*map(str, values)])}; 255 "
                             f"does not count): {counted(told, most=3)}; mend them, or name all classes ({source})")  # fmt: skip
        return tuple(names), values

    def dataset(self, samples: Samples, stage: Stage) -> BatchDataset:
        """As the base class has it; pictures and masks keep their own size for transforms that crop or resize."""
        transform = self.transforms[stage]
        if transform is not None and any(map(resizes, transform)):
            x, y = copy.copy(samples.x), copy.copy(samples.y)
            if isinstance(x, ImageFiles):
                x.whole = True
            if isinstance(y, MaskFiles):
                y.whole = True
            samples = replace(samples, x=x, y=y)
        return super().dataset(samples, stage)

    def statistics(self, samples: Samples, train: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of a sample of the training pictures; kept, since decoding takes a while."""
        assert isinstance(samples.x, ImageFiles)
        return kept_statistics(samples.x, train)


class MaskFiles:
    """Masks in files, by number: `(B, size, size)` uint8 for an index tensor, one mask for an int.

    Args:
        paths: the files.
        values: what stands in them for each class; everything else becomes VOID.
        size, fit: as the pictures are prepared.
        whole: whether single masks keep their own size, for transforms that crop or resize them.
    """

    def __init__(self, paths: Paths, values: Sequence[int], size: int, fit: Fit, whole: bool) -> None:
        self.paths, self.size, self.whole = paths, size, whole
        self.fit: Fit = fit
        self.number = np.full(256, VOID, dtype=np.uint8)
        self.number[list(values)] = np.arange(len(values))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, int):
            mask = Image.fromarray(self.number[read_mask(self.paths.path(index))])
            if not self.whole:
                mask = fit_to(mask, self.size, self.fit, Image.Resampling.NEAREST, VOID)
            return torch.from_numpy(np.array(mask))
        whole, self.whole = self.whole, False
        try:
            return torch.stack([self[i] for i in index.tolist()])
        finally:
            self.whole = whole

    def content_keys(self) -> Any:
        """A key of each file's content `(N,)`."""
        return self.paths.content_keys()


def match(root: Path) -> tuple[Paths, Paths]:
    """The pictures and their masks, in one order.

    Raises:
        InputError: naming the files, when one lacks the other.
    """
    lines: list[str] = []
    found: dict[str, dict[str, str]] = {}
    for name, kinds in {"images": EXTENSIONS, "masks": MASKS}.items():
        folder = root / name
        if not folder.is_dir():
            lines.append(f"{folder}: no such folder; expected {root}/images and {root}/masks (data.root)")
            continue
        inside_it = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        files = [str(path) for path in inside_it if not any(part.startswith(".") for part in path.parts)]
        if name == "masks" and (
            lossy := [file for file in files if os.path.splitext(file)[1].lower() in EXTENSIONS - MASKS]
        ):
            lines.append(f"{folder}: masks have to be PNG, BMP or TIFF, which keep their values: {counted(lossy)}")
        inside: dict[str, list[str]] = {}
        for file in files:
            if os.path.splitext(file)[1].lower() in kinds:
                inside.setdefault(os.path.splitext(file)[0], []).append(file)
        if twice := [" and ".join(several) for several in inside.values() if len(several) > 1]:
            lines.append(f"{folder}: files that differ in their endings alone: {counted(twice)}; remove one of each")
        if not inside and not lines:
            lines.append(f"{folder}: no {'pictures' if name == 'images' else name} ({', '.join(sorted(kinds))})")
        found[name] = {stem: several[0] for stem, several in inside.items()}
    if not lines:
        for name, other in (("images", "masks"), ("masks", "images")):
            if alone := [file for stem, file in found[name].items() if stem not in found[other]]:
                lines.append(f"{root / name}: {len(alone):,} of {len(found[name]):,} files have none of the same name in "
                             f"{other}: {counted(alone)}; add them, or remove these")  # fmt: skip
    if lines:
        raise InputError(lines)
    stems = sorted(found["images"])
    return tuple(Paths(root / name, [found[name][stem] for stem in stems]) for name in ("images", "masks"))  # type: ignore[return-value]


def levels_of(images: Paths, masks: Paths) -> Any:
    """Which of the 256 values each mask holds, `(N, 256)` bool; kept under data/, since a large folder takes a while.

    Raises:
        InputError: naming the files, when a mask cannot be read, or is not as large as its picture.
    """
    digest = hashlib.blake2b(digest_size=12)
    for paths in (images, masks):
        for i in range(len(paths)):
            status = os.stat(paths.path(i))
            digest.update(f"{paths.path(i)} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    kept = DATA / "masks" / f"{digest.hexdigest()}.npy"
    if kept.exists():
        return np.load(kept)

    def look(i: int) -> tuple[Any, str]:
        try:
            mask = read_mask(masks.path(i))
            there = np.zeros(256, dtype=bool)
            there[np.unique(mask)] = True
            (height, width), (w, h) = mask.shape, size_of(images.path(i))
        except InputError as error:
            return None, str(error)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more
            return None, f"{images.path(i)}: cannot be read as an image: {error}"
        return there, "" if (width, height) == (w, h) else (
            f"{masks.path(i)}: {width} x {height} pixels, and its picture {images[i]} has {w} x {h}")  # fmt: skip

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(look, range(len(masks))))
    if lines := [problem for _, problem in found if problem]:
        raise InputError(lines[:5] + ([f"and {len(lines) - 5:,} more masks"] if len(lines) > 5 else []))
    levels = np.stack([there for there, _ in found])
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside = kept.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(beside, levels)
    os.replace(beside, kept)
    return levels


def read_mask(path: str) -> Any:
    """The values of a mask file, `(H, W)` uint8.

    Raises:
        InputError: naming the file, when it is gone, damaged, or has more than one channel.
    """
    try:
        with Image.open(path) as mask:
            if mask.mode in ("L", "P", "1"):
                return np.asarray(mask).astype(np.uint8)  # a palette's numbers, not its colours
            if mask.mode.startswith("I"):  # 16 or 32 bits for each value
                values = np.asarray(mask)
                if values.min() >= 0 and values.max() <= 255:
                    return values.astype(np.uint8)
                raise InputError(f"{path}: holds {values.min()} to {values.max()}; a mask holds numbers from 0 to 255")
            raise InputError(
                f"{path}: has colours ({mask.mode}); a mask holds a class number for each pixel, in one channel"
            )
    except InputError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more
        raise InputError(f"{path}: cannot be read as a mask: {error}".replace(f" '{path}'", "")) from None
