"""Writes noise in CIFAR's format: batches pickled the way that Python 2 and the numpy of 2009 did it."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class OldPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Python 2 had one kind of string, and its numpy wrote 0 and 1 for a dtype's flags."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, text: str | bytes) -> None:
        plain = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(plain)) + plain)
        self.memoize(text)

    def save_flag(self, flag: bool) -> None:
        self.save(int(flag))

    dispatch |= {str: save_string, bytes: save_string, bool: save_flag}


def old_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    OldPickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write(folder: Path, known: Any, train: int, test: int) -> dict[str, Any]:
    """The extracted files of CIFAR-10 or CIFAR-100.

    Args:
        folder: the data folder; the files go into one within it, as in the archive.
        known: torchvision's class, for the names.
        train, test: numbers of images; each class is there equally often.

    Returns:
        What that class says of the files, with their checksums: `train_list`, `test_list` and `meta`.
    """
    fine = known.meta["key"] == "fine_label_names"
    classes = 100 if fine else 10
    random = np.random.default_rng(0)
    inside = folder / known.base_folder
    inside.mkdir(parents=True, exist_ok=True)

    def put(name: str, value: Any) -> list[str]:
        (inside / name).write_bytes(old_pickle(value))
        return [name, hashlib.md5((inside / name).read_bytes()).hexdigest()]

    def batch(count: int) -> dict[str, Any]:
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [i % classes for i in range(count)]
        return {"data": data, "fine_labels" if fine else "labels": labels}

    names = [f"thing_{i}" for i in range(classes)]
    meta = put(known.meta["filename"], {known.meta["key"]: names})
    return {
        "train_list": [
            put(name, batch(train // len(known.train_list))) for name, _ in known.train_list
        ],
        "test_list": [put(name, batch(test)) for name, _ in known.test_list],
        "meta": {**known.meta, "md5": meta[1]},
    }
