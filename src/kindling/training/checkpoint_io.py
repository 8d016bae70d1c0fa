"""Write checkpoint files that are whole or absent, and hold tensors and plain values."""

from __future__ import annotations

import copy
import io
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.runs.checkpoint_file import read_checkpoint, sync_folder
from src.kindling.runs.files import require_folder

ATOMS = (type(None), bool, int, float, complex, str, bytes, Tensor, nn.Parameter, torch.Size)
LEFT_OUT = object()


class AtomicIO(TorchCheckpointIO):
    """Writes a checkpoint to a `.tmp` file, flushes it to the disk, and renames it.

    A process killed in between leaves the old checkpoint intact on any file system; Lightning's own
    writer copies from the temporary folder. Values that could not be loaded are left out and
    printed once: `save_hyperparameters()` keeps nets and optimizers beside numbers.

    Args:
        run: the directory of the training, which is not made again if it was deleted.
    """

    def __init__(self, run: Path | None = None) -> None:
        self.run = run
        self.left_out: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        left_out: dict[str, str] = {}
        buffer = io.BytesIO()  # as in Lightning: torch would hide why a write to a file failed
        torch.save(plain(checkpoint, left_out), buffer)
        if new := [f"{key} ({kind})" for key, kind in left_out.items() if key not in self.left_out]:
            print(
                f"checkpoint: {', '.join(new)} left out, neither tensors nor plain values; "
                "save_hyperparameters(ignore=[…]) keeps them out"
            )
            self.left_out |= left_out.keys()
        if self.run:
            require_folder(self.run)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:  # that of a write has no file name
            raise OSError(error.errno, error.strerror, str(temporary)) from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def plain(value: Any, left_out: dict[str, str], key: str = "") -> Any:
    """Return a copy of nested values without what `torch.load(weights_only=True)` would refuse.

    Args:
        left_out: receives the dotted key and the class of each value that is left out.
        key: of the value.
    """
    value = _simplified(value)
    if type(value) in ATOMS:
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value, left_out, key)
    if isinstance(value, list | tuple):
        items = [plain(item, left_out, f"{key}.{i}") for i, item in enumerate(value)]
        kept = [item for item in items if item is not LEFT_OUT]
        return tuple(kept) if isinstance(value, tuple) else kept
    if _is_loadable(value):
        return value
    kind = type(value).__name__
    if key.startswith("state_dict."):
        raise InputError(
            f"checkpoint: {key} ({kind}) cannot be loaded again; convert it to a tensor"
        )
    left_out[key] = kind
    return LEFT_OUT


def _plain_mapping(value: Mapping[Any, Any], left_out: dict[str, str], key: str) -> Any:
    same_class = isinstance(value, OrderedDict | Counter)
    kept: Any = copy.copy(value) if same_class else {}  # with a state dict's `_metadata`
    kept.clear()
    for name, item in value.items():
        item_key = f"{key}.{name}".lstrip(".")
        plain_name, plain_item = plain(name, left_out, item_key), plain(item, left_out, item_key)
        if plain_name is not LEFT_OUT and plain_item is not LEFT_OUT:
            kept[plain_name] = plain_item
    return kept


def _simplified(value: Any) -> Any:
    if isinstance(value, DictConfig | ListConfig):
        return OmegaConf.to_container(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _is_loadable(value: Any) -> bool:
    """Whether torch loads this value from a checkpoint."""
    if callable(value):  # nets among them, which take long to write
        return False
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # pickling an object may raise anything
        return False
    return True
