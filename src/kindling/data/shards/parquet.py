"""Parquet shards: a block is a row group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.paths import open_parquet
from src.kindling.data.shards.files import KEY, Block, Rows, ShardFiles, join_rows, translated

STEP = 256  # rows that are decoded at once
UNREADABLE = (OSError, ValueError, NotImplementedError, KeyError)  # pyarrow's errors are of these


class ParquetShards(ShardFiles):
    """Columns of numbers, of lists of one length, of texts, and of bytes (encoded images).

    Of a struct with a field `bytes`, as Hugging Face's datasets save images, that field is read.
    """

    def find_blocks(self, path: Path) -> list[tuple[int, int, int]]:
        with translated(path, UNREADABLE, lambda: "Parquet"), open_parquet(path) as file:
            rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum([0, *rows]).tolist()
        return [(i, ends[i], count) for i, count in enumerate(rows) if count]

    def read(self, block: Block, start: int, stop: int, columns: Sequence[str]) -> Rows:
        path, parts = self.paths[block.shard], []
        done = 0  # rows of the block that were read
        group = translated(path, UNREADABLE, lambda: f"Parquet in row group {block.position}")
        with group, open_parquet(path) as file:
            names = self._find(path, file.schema_arrow, columns)
            options = {"row_groups": [block.position], "columns": names, "use_threads": False}
            for batch in file.iter_batches(STEP, **options):
                first, last = max(start - done, 0), min(stop - done, len(batch))
                if first < last:
                    row = block.first + done + first
                    part = batch.slice(first, last - first)
                    parts.append(_convert_batch(path, row, part, columns))
                done += len(batch)
                if done >= stop:
                    break
        if done < stop:
            raise InputError(f"{path}: row group {block.position} ends too early; replace the file")
        return join_rows(parts)

    def _find(self, path: Path, schema: Any, columns: Sequence[str]) -> list[str]:
        """The columns as pyarrow names them."""
        names = []
        for name in columns:
            if name not in schema.names:
                hint = did_you_mean(name, schema.names) or "; name another"
                listed = join_names(schema.names, most=10)
                raise InputError(f"{path}: no column '{name}'{hint} (its columns: {listed})")
            kind = schema.field(name).type
            has_bytes = hasattr(kind, "get_field_index") and kind.get_field_index("bytes") >= 0
            names.append(f"{name}.bytes" if has_bytes else name)
        return names


def _convert_batch(path: Path, row: int, batch: Any, columns: Sequence[str]) -> Rows:
    rows: Rows = {KEY: [f"{path}: row {row + i + 1}" for i in range(len(batch))]}
    for name in columns:
        try:
            rows[name] = _convert(batch.column(name))
        except InputError as error:
            last = f"rows {row + 1} to {row + len(batch)}"
            raise InputError(f"{path}: column '{name}' in {last} {error}") from None
    return rows


def _convert(array: Any) -> Any:
    """An arrow array as numbers `(N, …)`, or as a list of bytes or texts."""
    from pyarrow import compute, types

    if types.is_struct(array.type) and array.type.get_field_index("bytes") >= 0:
        array = array.field("bytes")
    if array.null_count:
        raise InputError("has empty cells; fill them, or leave out their rows")
    if types.is_list(array.type) or types.is_large_list(array.type):
        lengths = compute.unique(compute.list_value_length(array)).to_pylist()
        if len(lengths) > 1:
            raise InputError(f"has lists of {lengths[0]} and of {lengths[1]} values; pad them")
        length = lengths[0]
    elif types.is_fixed_size_list(array.type):
        length = array.type.list_size
    elif types.is_integer(array.type) or types.is_floating(array.type):
        return np.array(array.to_numpy(zero_copy_only=False))
    elif types.is_boolean(array.type):
        return array.to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        return array.to_pylist()
    flat = _convert(array.flatten())
    if isinstance(flat, list):
        raise InputError("has lists that are not of numbers; name another column")
    return flat.reshape(len(array), length, *flat.shape[1:])
