"""Find image files in folders, and tell splits from classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED, explain_unsupported
from src.kindling.data.samples import STAGES, Stage

LeftOut = dict[str, list[str]]  # files that are not used, by the reason
SPLITS: dict[str, Stage] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_images(folder: Path) -> tuple[list[str], LeftOut]:
    """The images in a folder, at any depth, relative to it; and its other files, by the reason."""
    names = list[str]()
    left_out: LeftOut = {}
    for parent, files in walk_once(folder, left_out):
        inside = os.path.relpath(parent, folder)
        for file in files:
            name = file if inside == os.curdir else os.path.join(inside, file)
            extension = os.path.splitext(file)[1].lower()
            if name.startswith(".") or f"{os.sep}." in name:
                left_out.setdefault("hidden", []).append(name)
            elif extension in EXTENSIONS:
                names.append(name)
            else:
                left_out.setdefault(extension or "without extension", []).append(name)
    return sorted(names), left_out


def walk_once(folder: str | Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Each folder at any depth with its files, also behind links, but each real folder once."""
    root = os.path.realpath(folder)
    visited = {root}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in folders[:]:
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            # What a link names within the root is, or will be, visited without it.
            is_inside = os.path.islink(path) and real.startswith(os.path.join(root, ""))
            if is_inside or real in visited:
                folders.remove(name)
                left_out.setdefault("link to a folder that is read already", []).append(name)
            visited.add(real)
        yield parent, files


def refuse_unsupported(folder: Path, left_out: LeftOut, remedy: str) -> None:
    """Refuse images of formats for which a package is missing."""
    lines = []
    for extension in sorted(left_out.keys() & UNSUPPORTED.keys()):
        files = join_names(sorted(left_out[extension]), most=3)
        lines.append(f"{folder}: {explain_unsupported(extension)}, {remedy} ({files})")
    if lines:
        raise InputError(lines)


def format_left_out(left_out: LeftOut) -> str:
    """`5 files left out (3 .gif, 2 hidden)`."""
    counts = Counter({reason: len(names) for reason, names in left_out.items()})
    reasons = join_names([f"{count:,} {reason}" for reason, count in counts.most_common()])
    return f"{format_count(counts.total(), 'file')} left out" + (f" ({reasons})" if counts else "")


def are_split_folders(root: Path, names: Iterable[str]) -> bool:
    """Whether a root's folders are splits, and not classes; refuse a mixture."""
    names = sorted(set(names))
    splits = [name for name in names if name.lower() in SPLITS]
    others = [name for name in names if name.lower() not in SPLITS]
    stages = [SPLITS[name.lower()] for name in splits]
    if not splits:
        return False
    problem = ""
    if others:
        problem = f"folders of splits ({join_names(splits)}) and others ({join_names(others)})"
        remedy = "move the others away, or rename a class that is called like a split"
    elif "train" not in stages:
        problem = f"folders of splits, but none for training ({join_names(splits)})"
        remedy = "add a folder train, or rename a class that is called like a split"
    elif len(set(stages)) < len(stages):
        problem, remedy = f"several folders for one split ({join_names(splits)})", "merge them"
    if problem:
        raise InputError(f"{root}: {problem}; {remedy} (data.root)")
    return True


def index_folder(root: Path, names: Sequence[str], left_out: LeftOut) -> Mapping[str, list[str]]:
    """The `path` (relative to the root), `label` and `split` (or "") of images in class folders."""
    staged = are_split_folders(root, [folder.name for folder in root.glob("[!.]*/")])
    depth = 2 if staged else 1
    rows = sorted(name.split(os.sep, depth) for name in names if name.count(os.sep) >= depth)
    if outside := [name for name in names if name.count(os.sep) < depth]:
        left_out["outside class folders"] = outside
    if not rows:
        kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
        place = "<split>/<class>/" if staged else "<class>/"
        hint = f"; move its images, such as {names[0]}, into class folders" if names else ""
        raise InputError(f"{root}: no images in {place} folders ({kinds}){hint} (data.root)")
    used = {root.joinpath(*row[:depth]) for row in rows}
    folders = sorted(root.glob("[!.]*/[!.]*/" if staged else "[!.]*/"))
    if empty := [str(folder) for folder in folders if folder not in used]:
        problem = f"class folders without images: {join_names(empty)}"
        files = [root / file for names in left_out.values() for file in names]
        unread = {file.suffix.lower() for file in files if {*map(str, file.parents)} & {*empty}}
        unread -= {""}
        hint = f" (with {join_names(sorted(unread))} files, which are not read)" if unread else ""
        remedy = "convert them" if unread else "add some"
        raise InputError(f"{problem}{hint}; {remedy}, or remove the folder")
    return {
        "path": [os.path.join(*row) for row in rows],
        "label": [row[depth - 1] for row in rows],
        "split": [row[0] if staged else "" for row in rows],
    }


def official_splits(names: Iterable[str]) -> dict[Stage, Tensor]:
    """Sample numbers of the splits that folders or a list define, from the samples' split names."""
    stages = np.array([SPLITS.get(name.lower(), "") for name in names])
    found = {stage: torch.from_numpy(np.flatnonzero(stages == stage)) for stage in STAGES}
    found = {stage: index for stage, index in found.items() if len(index)}
    if len(found) < len(STAGES):  # the others are cut from the training samples
        found.pop("train", None)
    return found
