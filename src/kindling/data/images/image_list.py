"""A list of image files with their targets, and maybe splits, groups or times: `data.files`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED, explain_unsupported
from src.kindling.data.images.find_images import SPLITS
from src.kindling.data.images.image_data import refuse
from src.kindling.data.samples import STAGES
from src.kindling.data.tables.columns import find_unknown_names
from src.kindling.data.tables.read import TableFile


def read_list(
    root: Path,
    file: TableFile,
    columns: Mapping[str, Sequence[str]],
    text: Collection[str],
    notes: list[str],
) -> pd.DataFrame:
    """Read a list's `path` (relative to root), `split` (or "") and columns, some as text."""
    header = file.read_header()
    _check_header(file, header, columns)
    path = _find_paths(file, header, notes)
    if lines := find_unknown_names(file, header, columns):
        raise InputError(lines)
    others = [name for names in columns.values() for name in names]
    split = [name for name in header if name.lower() == "split" and name not in others][:1]
    frame = file.read(list(dict.fromkeys([path, *split, *others])), {path, *split, *text})
    frame["path"] = frame[path].fillna("")
    frame["split"] = frame[split[0]].fillna("").str.strip().str.lower() if split else ""
    _check_rows(root, file, frame)
    return frame


def _is_image(text: str) -> bool:
    return text.lower().endswith((*EXTENSIONS, *UNSUPPORTED))


def _check_header(
    file: TableFile, header: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a list without column names, or with spaces between columns."""
    if len(header) == 1 and " " in header[0]:
        problem = f"one column, {header[0]!r}, that seems to be separated by spaces"
        raise InputError(f"{file.path}: {problem}; add data.separator=space")
    if any(map(_is_image, header)):
        rest = iter([name for names in columns.values() for name in names])
        names = ["path" if _is_image(cell) else next(rest, "other") for cell in header]
        needed = file.sep.replace(r"\s+", " ").join(names)
        problem = f"the first line, {header[0]!r}, …, has no column names"
        raise InputError(f"{file.path}: {problem}; add this line above it: {needed}")


def _find_paths(file: TableFile, header: Sequence[str], notes: list[str]) -> str:
    """The column of the images' paths: `path`, or else the only one with names of images."""
    if "path" in header:
        return "path"
    named = [name for name in header if name]
    first = next(file.read_frames(named, named, rows=1))
    found = [name for name in named if len(first) and _is_image(str(first[name].iloc[0]))]
    if len(found) != 1:
        hint = f"; several have names of images ({join_names(found)})" if found else ""
        hint = hint or did_you_mean("path", named)
        problem = f"has no column 'path'{hint} (its columns: {join_names(named)})"
        raise InputError(f"{file.path}: {problem}; rename the column of the images (data.files)")
    notes.append(f"images: column '{found[0]}' has their paths; rename it 'path' to confirm")
    return found[0]


def _check_rows(root: Path, file: TableFile, frame: pd.DataFrame) -> None:
    stages = {SPLITS.get(split) for split in frame["split"].unique()}
    complete = stages >= {*STAGES}
    lines = []
    for line, (path, split) in enumerate(zip(frame["path"], frame["split"], strict=True), start=2):
        problem = ""
        if not path:
            problem = "path is empty; fill it in"
        elif path.lower().endswith((*UNSUPPORTED,)):
            problem = f"{path}: {explain_unsupported(Path(path).suffix.lower())}"
        elif not (root / path).is_file():
            problem = f"{root / path}: no such file; paths are relative to data.root"
        elif split not in SPLITS and (split or complete):
            given = f"split {split!r}{did_you_mean(split, SPLITS)}" if split else "split is empty"
            problem = f"{given} (train, val or test)"
        if problem:
            lines.append(f"{file.path}:{line}: {problem}")
    refuse(lines, "lines like these", most=5)
