"""Writes shards: the digits as images in Parquet or tar files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def encode(pixels: Any) -> bytes:
    """A digit `(8, 8)` as a PNG of 16 x 16 pixels."""
    file = io.BytesIO()
    Image.fromarray((pixels * 15.9).astype("uint8")).resize((16, 16)).save(file, "PNG")
    return file.getvalue()


def digits(count: int) -> tuple[list[bytes], list[int]]:
    images, classes = load_digits(return_X_y=True)
    return [encode(image.reshape(8, 8)) for image in images[:count]], classes[:count].tolist()


def write_parquet(path: Path, columns: dict[str, Any], group: int = 32) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=group)


def write_tar(path: Path, rows: list[dict[str, bytes]], first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows, first):
            for ending, content in row.items():
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_digits(folder: Path, form: str, count: int = 600, shards: int = 6) -> None:
    """Digits in some shards, each with its number among them as `id`."""
    images, classes = digits(count)
    for shard, index in enumerate(np.array_split(np.arange(count), shards)):
        path = folder / f"digits-{shard:03d}.{form}"
        chosen = [images[i] for i in index], [classes[i] for i in index]
        if form == "parquet":
            ids = index.tolist()
            write_parquet(path, {"image": chosen[0], "label": chosen[1], "id": ids})
            continue
        rows = [
            {
                "png": image,
                "cls": str(label).encode(),
                "json": json.dumps({"id": int(i), "label": label}).encode(),
            }
            for i, image, label in zip(index, *chosen, strict=True)
        ]
        write_tar(path, rows, int(index[0]))
