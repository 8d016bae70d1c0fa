"""The splits of shards, and the spec of what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.paths import data_path
from src.kindling.data.samples import STAGES, Samples, Stage
from src.kindling.data.shards.files import ShardFiles
from src.kindling.data.shards.parquet import ParquetShards
from src.kindling.data.shards.tar import TarShards
from src.kindling.data.spec import Spec
from src.kindling.data.statistics import describe_samples, mean_and_std

SAMPLES = 512  # rows that mean and standard deviation are taken from
Kind = Literal["auto", "classification", "regression"]


def open_shards(folder: Path) -> ShardFiles:
    """Open the Parquet or tar files of a folder, in the order of their names.

    Raises:
        InputError: when there are none, of two formats, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (data.folder)")
    names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in names if path.suffix in (".parquet", ".tar")]
    if not found:
        packed = [path.name for path in names if ".tar." in path.name or path.suffix == ".tgz"]
        remedy = f"unpack {packed[0]} and others to .tar" if packed else "set data.folder"
        raise InputError(f"{folder}: no .parquet or .tar file; {remedy}")
    if other := [path.name for path in found if path.suffix != found[0].suffix]:
        both = f"{found[0].name} and {other[0]} are of two formats"
        raise InputError(f"{folder}: {both}; put them into different folders")
    shards = ParquetShards(found) if found[0].suffix == ".parquet" else TarShards(found)
    if not len(shards):
        raise InputError(f"{folder}: the shards have no rows; set data.folder to others")
    return shards


def split_shards(
    folder: str, split: tuple[float, float, float]
) -> tuple[dict[Stage, ShardFiles], list[str]]:
    """Open the shards of each stage.

    Args:
        folder: of the training shards, or of folders named `train`, `val` and `test`.
        split: the shares of whole shards that a stage without a folder takes from training.

    Returns:
        The shards, without a stage whose share is 0, and notes for the user.
    """
    root, shards, notes = data_path(folder), dict[Stage, ShardFiles](), list[str]()
    for stage in STAGES:
        if (root / stage).is_dir() or stage == "train":
            shards[stage] = open_shards(root / stage if (root / stage).is_dir() else root)
    count = len(shards["train"].paths)
    for stage, share in zip(STAGES[1:], split[1:], strict=True):
        if stage in shards or not share:
            continue
        if len(shards["train"].paths) < 2:
            problem = f"too few shards ({count}) to take some for {stage}"
            remedy = f"write more, smaller ones, or put some into {root / stage}"
            raise InputError(f"{root}: {problem}; {remedy}")
        shards["train"], shards[stage] = shards["train"].cut(round(share * count))
        names = join_names([path.name for path in shards[stage].paths])
        notes.append(f"{stage}: {len(shards[stage].paths)} of {count} shards ({names})")
    rows = ", ".join(f"{len(shards[stage]):,} {stage}" for stage in STAGES if stage in shards)
    return shards, [*notes, f"rows: {rows}"]


def describe_shards(
    folder: str, shards: Mapping[Stage, ShardFiles], decode: Any, kind: Kind
) -> tuple[Spec, list[str]]:
    """Make the spec of shards, and set what `decode` has to know: `classes` and `shape`.

    The classes are found by reading the target column of all shards, once as long as they stay as
    they are. Everything else is of 512 training rows.

    Args:
        folder: a `classes.txt` in it holds the names of the classes, one a line.
        shards: of each stage.
        decode: makes a batch `(x, y)` of rows, of their columns `input` and `target`.
        kind: `auto` takes numbers with a fraction and lists for values, all others for classes.

    Returns:
        The spec, and notes for the user.
    """
    rows = shards["train"].sample(SAMPLES, [decode.input, decode.target])
    target, names, counts = rows[decode.target], tuple[str, ...](), dict[Any, int]()
    if isinstance(target[0], bytes):
        problem = f"'{decode.target}' holds bytes; name a column of classes or numbers"
        raise InputError(f"data.target: {problem}")
    values = isinstance(target, np.ndarray) and (target.dtype.kind == "f" or target.ndim > 1)
    notes = []
    if kind == "classification" or (kind == "auto" and not values):
        names, counts = _find_classes(data_path(folder), shards, decode.target)
        decode.classes = {value: number for number, value in enumerate(counts)}
        counted = [f"{name} ({n:,})" for name, n in zip(names, counts.values(), strict=True)]
        notes.append(f"classes: {join_names(counted, most=10)}")
    x, y = decode(rows)
    decode.shape = tuple(x.shape[1:])
    columns = tuple(f"{decode.input} {i + 1}" for i in range(x.shape[1]))  # of a table
    moments = mean_and_std(x, torch.arange(len(x)))
    samples, target_shape = Samples(x, y, names, columns, decode.target), tuple(y.shape[1:])
    spec = describe_samples(samples, torch.arange(len(x)), decode.shape, target_shape, moments)
    return replace(spec, class_counts=tuple(counts.values())), notes


def _find_classes(
    root: Path, shards: Mapping[Stage, ShardFiles], target: str
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes, and how often each has its value in training, in their order."""
    counts = {stage: part.count_values(target) for stage, part in shards.items()}
    values, listed = list(counts["train"]), root / "classes.txt"
    names = tuple(map(str, values))
    if listed.exists():
        names = tuple(line.strip() for line in listed.read_text("utf-8").splitlines() if line)
        values = list(range(len(names))) if isinstance(values[0], int) else list(names)
    for stage, found in counts.items():
        if unknown := [str(value) for value in found if value not in values]:
            where = listed.name if listed.exists() else "the training shards"
            problem = f"{stage} shards have classes that {where} lacks: {join_names(unknown)}"
            raise InputError(f"{root}: {problem}; add them, or set data.target")
    if len(names) < 2:
        problem = f"all rows are of one class, '{names[0]}'"
        raise InputError(f"{root}: {problem}; at least two are needed")
    return names, {value: counts["train"].get(value, 0) for value in values}
