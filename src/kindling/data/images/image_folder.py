"""Your own images: a folder for each class, or a list of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.images import find_images, image_data
from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED, explain_unsupported
from src.kindling.data.images.find_images import SPLITS, LeftOut
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.images.image_module import ImageModule
from src.kindling.data.paths import data_path
from src.kindling.data.samples import STAGES, Samples
from src.kindling.data.tables.columns import find_unknown_names
from src.kindling.data.tables.read import TableFile
from src.kindling.data.tables.target import Target, TargetKind


class ImageFolder(ImageModule):
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
        separator, encoding, decimal: of the list; see Table. `space` is any white space.
        normalize: `train` takes the statistics of the training split (a sample of 2,048 images,
            cached under data/); with `none`, 0 to 255 become -1 to 1.
        on_error: whether an unreadable image is an error, or is left out and listed; all images are
            then decoded once to find them.
        error_limit: the share of unreadable images above which they are an error, too.
        cache: `memmap` decodes every image once into a file under data/, which later epochs and
            runs read at memory speed; transforms then receive images at the common shape.
        base: see ImageModule. `size` is first taken from what the training transforms give. With
            `files`, `group_column` and `time` are columns of the list.
    """

    faster_reading = "set data.cache=memmap, or save smaller copies"

    def __init__(
        self,
        root: str | None = None,
        files: str | None = None,
        target: str | list[str] | None = None,
        kind: TargetKind = "auto",
        labels: str | None = None,
        merge_labels: bool = False,
        separator: str | None = None,
        encoding: str = "utf-8",
        decimal: Literal["point", "comma"] = "point",
        normalize: Literal["train", "none"] = "train",
        on_error: Literal["error", "skip"] = "error",
        error_limit: float = 0.01,
        cache: Literal["none", "memmap"] = "none",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if root is None and files is None:
            raise InputError("data.root: is not set; add data.root=FOLDER, or data.files=LIST.csv")
        for key, value in (("target", target), ("labels", labels)):
            if value is not None and files is None:
                raise InputError(f"data.{key}: is for a list of files; set data.files")
        self.targets = [target or "label"] if isinstance(target, str | None) else target
        if target is None and kind == "auto":
            kind = "classification"
        self.listed = files is not None
        path = str(data_path(files or root or ""))
        file_format = separator, encoding, decimal
        self.file = TableFile(path, *file_format, default_na=False, key="data.files")
        self.root = Path(self.file.path).parent if root is None else data_path(root)
        self.target = Target(self.file, self.targets, kind, labels, merge_labels, fewest=1)
        self.default_target = target is None
        self.normalize, self.cache = normalize, cache
        self.on_error, self.error_limit = on_error, error_limit

    def load(self) -> Samples:
        if self.root.is_file():
            raise InputError(f"{self.root}: is a file; set it to a folder of images (data.root)")
        if not self.root.exists():
            raise InputError(f"{self.root}: no such folder (data.root)")
        rows, left_out = self._read_list() if self.listed else self._index_folder()
        fields = self._read_target(rows)
        fields |= self.split_by.read(self.file, rows, self.notes)
        images = self.open_images(Paths(self.root, rows["path"]))
        readable = self._find_readable(images)
        rows = rows.iloc[readable.numpy()]
        images.paths = paths = Paths(self.root, rows["path"])
        by_row = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        fields |= {name: value[readable] for name, value in by_row.items()}
        official = find_images.official_splits(rows["split"])
        samples = Samples(x=images, official=official, name=paths.__getitem__, **fields)
        if self.size is None and self.transforms["train"] is not None:
            first, _ = self.dataset(samples, "train")[(0, 0, torch.tensor([0]))]
            images.size = first.shape[-1]
        if self.cache == "memmap":
            images.packed = image_data.pack(images)
        source = "as set" if self.size else "from the files' headers"
        inside = f" in {len(samples.classes)} classes" if samples.classes else ""
        files = f"{len(images):,} files{inside}, {find_images.format_left_out(left_out)}"
        shape = f"{images.channels} x {images.size} x {images.size} ({source}"
        self.notes.append(f"images: {files}; {shape}; data.size and data.channels set them)")
        return samples

    def _index_folder(self) -> tuple[pd.DataFrame, LeftOut]:
        names, left_out = find_images.list_images(self.root)
        if self.on_error == "error":
            remedy = "convert them, or set data.on_error=skip"
            find_images.refuse_unsupported(self.root, left_out, remedy)
        found = find_images.index_folder(self.root, names, left_out)
        rows = pd.DataFrame(found, dtype=object)  # any bytes
        if self.target.kind == "classification" and rows["label"].nunique() == 1:
            problem = f"only one class folder, '{rows['label'].iloc[0]}'"
            remedy = "set it to a folder with a folder of images for each class (data.root)"
            raise InputError(f"{self.root}: {problem}; {remedy}")
        if {label.lower().removesuffix("s") for label in rows["label"]} == {"image", "mask"}:
            problem = "looks like images with masks; for segmentation use data=mask_folder"
            self.notes.append(f"data: {self.root} {problem}")
        numbers = pd.to_numeric(rows["label"], errors="coerce")
        if self.target.kind == "regression" and numbers.notna().all():
            rows["label"] = numbers
        return rows.assign(**self.split_by.search(rows["path"])), left_out

    def _read_list(self) -> tuple[pd.DataFrame, LeftOut]:
        """The list's `path` (relative to root), `split` (or "") and columns, some as text."""
        header = self.file.read_header()
        columns = {"data.target": self.targets, **self.split_by.columns}
        others = [name for names in columns.values() for name in names]
        self._check_header(header, others)
        path = self._find_paths(header)
        if lines := find_unknown_names(self.file, header, columns):
            raise InputError(lines)
        split = [name for name in header if name.lower() == "split" and name not in others][:1]
        text = {path, *split, *columns["data.group_column"]}
        one_class = self.target.kind == "classification" and len(self.targets) == 1
        if self.target.labels or one_class:
            text.add(self.targets[0])  # 007 is not 7
        frame = self.file.read(list(dict.fromkeys([path, *split, *others])), text)
        frame["path"] = frame[path].fillna("")
        frame["split"] = frame[split[0]].fillna("").str.strip().str.lower() if split else ""
        self._check_rows(frame)
        return frame, {}

    def _check_header(self, header: Sequence[str], columns: Sequence[str]) -> None:
        """Refuse a list without column names, or with spaces between columns."""
        if len(header) == 1 and " " in header[0]:
            problem = f"one column, {header[0]!r}, that seems to be separated by spaces"
            raise InputError(f"{self.file.path}: {problem}; add data.separator=space")
        if any(map(_is_image, header)):
            rest = iter(columns)
            names = ["path" if _is_image(cell) else next(rest, "other") for cell in header]
            needed = self.file.sep.replace(r"\s+", " ").join(names)
            problem = f"the first line, {header[0]!r}, …, has no column names"
            raise InputError(f"{self.file.path}: {problem}; add this line above it: {needed}")

    def _find_paths(self, header: Sequence[str]) -> str:
        """The column of the images' paths: `path`, or else the only one with names of images."""
        if "path" in header:
            return "path"
        named = [name for name in header if name]
        first = next(self.file.read_frames(named, named, rows=1))
        found = [name for name in named if len(first) and _is_image(str(first[name].iloc[0]))]
        if len(found) != 1:
            hint = f"; several have names of images ({join_names(found)})" if found else ""
            hint = hint or did_you_mean("path", named)
            problem = f"has no column 'path'{hint} (its columns: {join_names(named)})"
            remedy = "rename the column of the images (data.files)"
            raise InputError(f"{self.file.path}: {problem}; {remedy}")
        confirm = "rename it 'path' to confirm"
        self.notes.append(f"images: column '{found[0]}' has their paths; {confirm}")
        return found[0]

    def _check_rows(self, frame: pd.DataFrame) -> None:
        complete = {*STAGES} <= {SPLITS.get(split) for split in frame["split"].unique()}
        lines = []
        rows = zip(frame["path"], frame["split"], strict=True)
        for line, (path, split) in enumerate(rows, start=2):
            problem = ""
            if not path:
                problem = "path is empty; fill it in"
            elif path.lower().endswith((*UNSUPPORTED,)):
                problem = f"{path}: {explain_unsupported(Path(path).suffix.lower())}"
            elif not (self.root / path).is_file():
                problem = f"{self.root / path}: no such file; paths are relative to data.root"
            elif split not in SPLITS and (split or complete):
                given = f"{split!r}{did_you_mean(split, SPLITS)}" if split else "is empty"
                problem = f"split {given} (train, val or test)"
            if problem:
                lines.append(f"{self.file.path}:{line}: {problem}")
        image_data.refuse(lines, "lines like these", most=5)

    def _read_target(self, rows: pd.DataFrame) -> dict[str, Any]:
        notes = list[str]()
        fields = self.target.read(rows, notes)
        plain = not self.listed and "look like" not in notes[0]  # class folders need no note
        self.notes += notes[plain:]
        if fields["classes"] and self.default_target:
            fields["target"] = ""
        return fields

    def _find_readable(self, images: ImageFiles) -> Tensor:
        """The numbers of the images that can be read; the others are refused, or noted."""
        unreadable = image_data.find_unreadable(images, whole=self.on_error == "skip")
        if self.on_error == "error":
            image_data.refuse([*unreadable.values()], "unreadable images", most=20)
        count = f"{len(unreadable):,} of {len(images):,} images"
        if len(unreadable) > self.error_limit * len(images):
            problem = f"cannot be read, more than data.error_limit={self.error_limit:g} allows"
            named = join_names([images.paths.path(i) for i in unreadable])
            raise InputError(f"{count} {problem}: {named}; repair them, or raise the limit")
        if unreadable:
            named = join_names([line.partition("; ")[0] for line in unreadable.values()], most=20)
            self.notes.append(f"skipped {count}: {named}")
        return torch.tensor([i for i in range(len(images)) if i not in unreadable]).long()


def _is_image(text: str) -> bool:
    return text.lower().endswith((*EXTENSIONS, *UNSUPPORTED))
