"""Write checkpoint files that are whole or absent, and hold tensors and plain values."""

from __future__ import annotations

import io
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from omegaconf import DictConfig, ListConfig, OmegaConf

from src.kindling.config.errors import InputError
from src.kindling.runs.checkpoint_file import read_checkpoint, sync_folder

ATOMS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Tensor,
    torch.nn.Parameter,
    torch.Size,
    torch.dtype,
)
NOT_HERE = object()


class AtomicIO(CheckpointIO):
    """Writes a checkpoint to a `.tmp` file, flushes it to the disk, and renames it.

    A process that is killed while it writes leaves the old checkpoint intact on any file system;
    Lightning's own writer copies from the temporary folder and can leave half a file.

    Values that are neither tensors nor plain values are left out and printed once: they could not
    be loaded. A module's `save_hyperparameters()` keeps nets and optimizers beside numbers.
    """

    def __init__(self) -> None:
        self.left_out: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        path = Path(path)
        left_out: dict[str, str] = {}
        checkpoint = plain(checkpoint, left_out)
        if new := [f"{key} ({kind})" for key, kind in left_out.items() if key not in self.left_out]:
            print(
                f"checkpoint: {', '.join(new)} left out, neither tensors nor plain values; "
                "save_hyperparameters(ignore=[…]) keeps them out"
            )
            self.left_out |= left_out.keys()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        file = None
        try:
            with _ReportingFile(beside) as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            raise (file and file.reason) or error from None
        sync_folder(path.parent)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def plain(value: Any, left_out: dict[str, str], key: str = "") -> Any:
    """The same value, or a copy without what `torch.load(weights_only=True)` would refuse.

    Args:
        value: dicts, lists and tuples are gone through.
        left_out: receives the dotted key and the class of each value that is left out.
        key: of the value.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value)
    if isinstance(value, Mapping):
        return _plain_mapping(value, left_out, key)
    if isinstance(value, list | tuple):
        return _plain_sequence(value, left_out, key)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return plain(value.value, left_out, key)
    if isinstance(value, np.generic):
        return value.item()
    if _loads(value):
        return value
    if key.startswith("state_dict."):
        raise InputError(
            f"checkpoint: {key} ({type(value).__name__}) cannot be loaded again; "
            "convert it to a tensor"
        )
    left_out[key] = type(value).__name__
    return NOT_HERE


def _plain_mapping(value: Mapping[Any, Any], left_out: dict[str, str], key: str) -> Any:
    kept = {}
    for name, item in value.items():
        own = f"{key}.{name}".lstrip(".")
        plain_name, plain_item = plain(name, left_out, own), plain(item, left_out, own)
        if plain_name is not NOT_HERE and plain_item is not NOT_HERE:
            kept[plain_name] = plain_item
    same = type(value) in (dict, OrderedDict, Counter) and all(
        type(name) in ATOMS and kept.get(name, NOT_HERE) is item for name, item in value.items()
    )
    return value if same else kept


def _plain_sequence(value: Sequence[Any], left_out: dict[str, str], key: str) -> Any:
    items = [plain(item, left_out, f"{key}.{i}") for i, item in enumerate(value)]
    same = all(item is own for item, own in zip(items, value, strict=True))
    if same and type(value) in (list, tuple):
        return value
    kept = [item for item in items if item is not NOT_HERE]
    return tuple(kept) if isinstance(value, tuple) else kept


def _loads(value: Any) -> bool:
    """Whether torch loads this value from a checkpoint."""
    if callable(value):  # nets among them, which take long to write
        return False
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # what pickling an object raises, only its author knows
        return False
    return True


class _ReportingFile(io.FileIO):
    """A file that keeps the OSError of a failed write, which torch's zip writer replaces."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "wb")  # so that its errors hold a text
        self.reason: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.reason = OSError(error.errno, error.strerror, self.name)
            raise
