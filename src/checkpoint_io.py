"""Checkpoint files that are whole or not there: how they are written, and how they are read."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from omegaconf import DictConfig, ListConfig, OmegaConf

from src.errors import InputError


class AtomicIO(CheckpointIO):
    """Writes a checkpoint beside its place, flushed to the disk, and then renames it into it.

    A process that is killed while it writes leaves a `.tmp` file and the old checkpoint, whatever the moment, whatever
    the file system; Lightning's own way copies from the temporary folder, and what it leaves behind can be half a file.

    What is neither a tensor nor a plain value is left out, and named once: it could not be loaded. A module's
    `save_hyperparameters()` keeps nets and optimizers beside numbers.
    """

    def __init__(self) -> None:
        self.left_out: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
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
            with _Told(beside) as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            raise (file and file.reason) or error from None
        sync_folder(path.parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


# A config has some hundred values in a handful of levels.
MOST_VALUES, MOST_LEVELS = 100_000, 50
ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype)
NOT_HERE = object()


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
    if isinstance(value, list | tuple):
        parts = [plain(item, left_out, f"{key}.{i}") for i, item in enumerate(value)]
        present = [part for part in parts if part is not NOT_HERE]
        same = type(value) in (list, tuple) and all(one is two for one, two in zip(parts, value, strict=True))
        return value if same else tuple(present) if isinstance(value, tuple) else present
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return plain(value.value, left_out, key)
    if isinstance(value, np.generic):
        return value.item()
    if _loads(value):
        return value
    if key.startswith("state_dict."):
        raise InputError(f"checkpoint: {key} ({type(value).__name__}) cannot be loaded again; convert it to a tensor")
    left_out[key] = type(value).__name__
    return NOT_HERE


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


class _Told(io.FileIO):
    """A file that keeps what the system said of a failed write: torch's zip writer makes something else of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "wb")  # its errors name it as text
        self.reason: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.reason = OSError(error.errno, error.strerror, self.name)
            raise


def keep_previous(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name, before another takes its first: there is never a moment without one."""
    if path.exists():
        beside = previous.with_name(previous.name + ".tmp")
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except OSError:  # a file system without links
            return
        os.replace(beside, previous)


def sync_folder(folder: Path) -> None:
    """Have the disk know the folder's names as they are now."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, loaded to the CPU; only tensors and plain values, whatever the environment asks for.

    Raises:
        InputError: when the file is missing, damaged, holds code, or is not one of Kindling's.
    """
    from src.run import shown

    name = shown(path)
    if not path.exists():
        raise InputError(f"{name}: no such checkpoint; the run may have ended before its first was saved")
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise InputError(f"{name}: damaged: its part {broken} does not match its checksum")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).partition("Unsupported")[2].partition(".\n")[0].partition("\n")[0].strip()
        raise InputError(f"{name}: untrusted: it holds more than tensors and plain values"
                         f"{f' ({reason})' if reason else ''}; it was not loaded") from None  # fmt: skip
    except zipfile.BadZipFile:
        size = path.stat().st_size
        raise InputError(f"{name}: not a readable checkpoint: " + (
            f"its {size:,} bytes are cut off, or another kind of file" if size else "it is empty")) from None  # fmt: skip
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{name}: not a readable checkpoint: {reason}") from None
    if not isinstance(content, dict) or "kindling" not in content:
        raise InputError(f"{name}: a checkpoint of another program: it holds no config and no spec")
    try:
        check_content(content)
    except ValueError as error:
        raise InputError(f"{name}: not a readable checkpoint: {error}") from None
    return content


def check_content(content: dict[str, Any]) -> None:
    """Check what others read: the weights by their names, and a config of plain values.

    Raises:
        ValueError: naming what is wrong; also for a config that is too large or nested too deeply to be one.
    """
    state, own = content.get("state_dict"), content["kindling"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError("state_dict: expected tensors by name")
    kinds = {"name": str, "config": dict, "spec": dict}
    wrong = [key for key in kinds if not isinstance(own, dict) or not isinstance(own.get(key), kinds[key])]
    if wrong:
        raise ValueError(f"kindling.{wrong[0]}: expected a {kinds[wrong[0]].__name__}")
    seen, left = 0, [(own["config"], 0)]
    while left:
        value, depth = left.pop()
        seen += 1
        if seen > MOST_VALUES or depth > MOST_LEVELS:
            raise ValueError("kindling.config: too large, or nested too deeply")
        if isinstance(value, dict):
            left += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            left += [(item, depth + 1) for item in value]
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"kindling.config: holds a {type(value).__name__}, which is no plain value")


def newest(files: Sequence[Path]) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """The first file that is whole, its content, and a line for each that is not; None where there is no file.

    Raises:
        InputError: when there are files, and none is whole.
    """
    lines: list[str] = []
    for path in files:
        if path.exists():
            try:
                return path, read_checkpoint(path), lines
            except InputError as error:
                lines += error.lines
    if lines:
        raise InputError([*lines, "no checkpoint of this run can be read"])
    return None, None, lines
