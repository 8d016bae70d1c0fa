"""Shards on disk: their blocks of rows, and the columns of a part of a block."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.images.image_data import Paths, load_or_compute

KEY = "__key__"  # the column that names each row in messages: its file, and its row or member
# By column: an array `(N, …)` of numbers, or a list of bytes or texts.
Rows = dict[str, Any]


class Block(NamedTuple):
    """Rows that are read together, such as a row group."""

    shard: int
    position: int  # the number of the row group, or the byte at which the first member begins
    first: int  # the number of the first row in its shard
    rows: int


class ShardFiles(ABC):
    """Shards of one format, and the blocks in all of them.

    Args:
        paths: the shards, in the order of their rows.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.blocks = [
            Block(shard, *block)
            for shard, path in enumerate(paths)
            for block in self.find_blocks(path)
        ]

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    @abstractmethod
    def find_blocks(self, path: Path) -> list[tuple[int, int, int]]:
        """The position, the first row and the number of rows of each block of a shard."""

    @abstractmethod
    def read(self, block: Block, start: int, stop: int, columns: Sequence[str]) -> Rows:
        """Read some columns of the rows from `start` to `stop` of a block, and the column `KEY`.

        Raises:
            InputError: naming the shard and the row or member that cannot be read.
        """

    def count_values(self, column: str) -> dict[Any, int]:
        """How often each value of a column occurs, in the order of the values; cached under data/.

        Reads no other column.
        """
        found: Counter[Any] = Counter()
        for shard, path in enumerate(self.paths):
            count = partial(self._count_values, shard, column)
            found.update(dict(map(tuple, remember(path, f"values of {column}", count))))
        return {value: found[value] for value in sorted(found, key=lambda v: (str(type(v)), v))}

    def _count_values(self, shard: int, column: str) -> list[tuple[Any, int]]:
        found: Counter[Any] = Counter()
        for block in self.blocks:
            if block.shard == shard:
                values = self.read(block, 0, block.rows, [column])[column]
                found.update(values if isinstance(values, list) else values.tolist())
        return list(found.items())

    def sample(self, most: int, columns: Sequence[str]) -> Rows:
        """Read rows that are spread over all shards: the first ones of up to 64 blocks."""
        chosen = np.unique(np.linspace(0, len(self.blocks) - 1, 64).astype(int)).tolist()
        each = -(-most // len(chosen))
        blocks = [self.blocks[i] for i in chosen]
        return join_rows([self.read(one, 0, min(one.rows, each), columns) for one in blocks])

    def cut(self, count: int) -> tuple[ShardFiles, ShardFiles]:
        """Those that stay, and some others, at least one: by a hash of the shards' names.

        A shard that is added or removed hardly changes where the others are.
        """
        order = sorted(self.paths, key=lambda path: hashlib.blake2b(path.name.encode()).digest())
        cut, stay = order[: max(1, count)], order[max(1, count) :]
        return type(self)(sorted(stay)), type(self)(sorted(cut))


def remember(path: Path, what: str, compute: Callable[[], Any]) -> Any:
    """Compute plain values about a file once, as long as it keeps its size and its time."""
    key = Paths(path.parent.absolute(), [path.name]).fingerprint(what)
    text = load_or_compute("shards", key, lambda: np.array(json.dumps(compute())))
    return json.loads(str(text))


@contextmanager
def translated(
    path: Path, errors: tuple[type[Exception], ...], describe: Callable[[], str]
) -> Iterator[None]:
    """Turn errors of a library over a shard into a line; `describe` names format and position."""
    try:
        yield
    except errors as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"cannot be read as {describe()}: {reason}"
        raise InputError(f"{path}: {problem}; replace the file") from None


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    joined: Rows = {}
    for name, first in parts[0].items():
        columns = [part[name] for part in parts]
        if isinstance(first, list):
            joined[name] = [value for column in columns for value in column]
        elif len(shapes := {column.shape[1:] for column in columns}) > 1:
            found = join_names(sorted(map(str, shapes)))
            problem = f"column '{name}' has values of different shapes: {found}"
            raise InputError(f"{parts[0][KEY][0]}: {problem}; make them one shape")
        else:
            joined[name] = np.concatenate(columns)
    return joined


def take_rows(rows: Rows, index: np.ndarray[Any, Any]) -> Rows:
    """Some of the rows, by their numbers `(n,)`."""
    return {
        name: [column[i] for i in index.tolist()] if isinstance(column, list) else column[index]
        for name, column in rows.items()
    }
