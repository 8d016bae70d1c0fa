"""Tar shards in the layout of webdataset: a row is the files of one name, `000017.jpg` and `.cls`.

A block is some of them in sequence. The headers are read once; after that, a block is found by its
position in the file.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.shards.files import KEY, Block, Rows, ShardFiles, remember, translated

BLOCK_ROWS = 64
UNREADABLE = (tarfile.TarError, OSError)
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # a row's key, and the member's column
Sample = tuple[str, int, dict[str, tuple[int, int]]]  # key, begin, each member's offset and size


class TarShards(ShardFiles):
    """Members named `<key>.<column>`; those of one key follow each other.

    A column `cls` holds class numbers or names, `txt` texts, and `json.age` the values of one name
    in the members `.json`; others hold bytes, such as the encoded images of `jpg`.
    """

    def find_blocks(self, path: Path) -> list[tuple[int, int, int]]:
        def index() -> list[tuple[int, int, int]]:
            begins = [begin for _, begin, _ in _walk(path, 0)]
            starts = range(0, len(begins), BLOCK_ROWS)
            return [(begins[i], i, min(BLOCK_ROWS, len(begins) - i)) for i in starts]

        found: list[tuple[int, int, int]] = remember(path, f"blocks of {BLOCK_ROWS}", index)
        return found

    def read(self, block: Block, start: int, stop: int, columns: Sequence[str]) -> Rows:
        path = self.paths[block.shard]
        rows: Rows = {name: [] for name in (KEY, *columns)}
        with path.open("rb") as file:
            for key, _, members in islice(_walk(path, block.position), start, stop):
                rows[KEY].append(f"{path}: {key}")
                for name in columns:
                    rows[name].append(_read_member(file, f"{path}: {key}", members, name))
        if len(rows[KEY]) < stop - start:
            raise InputError(f"{path}: ends before its last row; replace the file")
        for name in columns:
            if rows[name] and all(isinstance(value, int | float) for value in rows[name]):
                rows[name] = np.array(rows[name])
        return rows


def _walk(path: Path, begin: int) -> Iterator[Sample]:
    """The samples of a shard, from the byte at which one begins, by their members' headers."""
    key, start, members = "", begin, dict[str, tuple[int, int]]()
    described = translated(path, UNREADABLE, lambda: f"tar after {key}" if key else "tar")
    with described, path.open("rb") as file:
        file.seek(begin)
        tar: Any = tarfile.TarFile(fileobj=file)
        while member := tar.next():
            tar.members.clear()  # it would keep all headers
            if not member.isfile() or not (match := NAME.fullmatch(member.name)):
                continue
            if match[1] != key:
                if members:
                    yield key, start, members
                key, start, members = match[1], member.offset, {}
            members[match[2].lower()] = member.offset_data, member.size
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is truncated")
        if members:
            yield key, start, members


def _read_member(file: Any, row: str, members: dict[str, tuple[int, int]], name: str) -> Any:
    """One column of a row."""
    ending, _, field = name.partition(".") if name.startswith("json.") else (name, "", "")
    if ending not in members:
        listed = join_names([f".{one}" for one in members], most=10)
        raise InputError(f"{row}: no member '.{ending}' (it has {listed}); name another column")
    offset, size = members[ending]
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise InputError(f"{row}.{ending}: the shard ends within it; replace the file")
    if ending not in ("cls", "txt", "json"):
        return content
    try:
        text = content.decode("utf-8").strip()
        if field:
            return json.loads(text)[field]
        return int(text) if ending == "cls" and text.lstrip("-").isdecimal() else text
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise InputError(f"{row}.{ending}: cannot be read ({problem}); correct it") from None
